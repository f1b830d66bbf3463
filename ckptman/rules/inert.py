"""Which names of a pickle reach the system: those can never be admitted as inert, whoever asks for it.

A pickle's REDUCE calls what it names when torch.load(weights_only=False) reads the file. ckptman calls nothing; but a
file that it places may be loaded elsewhere, so a name is admitted one by one, and never one of these.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

MODULES: Final = frozenset({
    "IPython", "_ctypes", "_frozen_importlib", "_frozen_importlib_external", "_io", "_pickle",
    "_posixsubprocess", "_socket", "_thread", "_winapi", "aiohttp", "antigravity", "asyncio", "atexit", "bdb",
    "bz2", "cPickle", "cProfile", "cffi", "cgitb", "cloudpickle", "code", "codeop", "commands", "concurrent",
    "ctypes", "curses", "dbm", "dill", "distutils", "docker", "doctest", "ensurepip", "fabric", "faulthandler",
    "fcntl", "fileinput", "ftplib", "gc", "git", "glob", "gzip", "http", "httplib", "httpx", "idlelib",
    "imaplib", "imp", "importlib", "inspect", "invoke", "io", "joblib", "lib2to3", "linecache", "lzma",
    "marshal", "mmap", "msvcrt", "multiprocessing", "nntplib", "nt", "ntpath", "os", "paramiko", "pdb",
    "pexpect", "pickle", "pip", "pkg_resources", "pkgutil", "platform", "plumbum", "popen2", "poplib", "posix",
    "posixpath", "profile", "pty", "pwd", "pydoc", "readline", "requests", "resource", "rlcompleter", "runpy",
    "sched", "select", "selectors", "setuptools", "sh", "shelve", "shutil", "signal", "site", "smtplib",
    "socket", "socketserver", "sqlite3", "ssl", "subprocess", "sys", "sysconfig", "syslog", "tarfile",
    "telnetlib", "tempfile", "threading", "timeit", "tkinter", "trace", "tty", "turtle", "unittest", "urllib",
    "BaseHTTPServer", "SimpleHTTPServer", "SimpleXMLRPCServer", "SocketServer", "Tkinter", "anydbm", "thread",
    "xmlrpclib", "urllib2", "urllib3", "venv", "webbrowser", "winreg", "wsgiref", "xmlrpc", "zipfile", "zipimport",
})  # fmt: skip
"""Modules that run programs, reach files or the network, load code, or look at the interpreter itself."""

FUNCTIONS: Final = frozenset({
    "CDLL", "CodeType", "DataSource", "File", "FileHandler", "FileIO", "FunctionType", "LambdaType",
    "MethodType", "ModuleType", "Popen", "PyTorchFileReader", "PyTorchFileWriter", "WinDLL", "__builtins__",
    "__getattr__", "__getattribute__", "__globals__", "__import__", "__reduce__", "__reduce_ex__",
    "__subclasses__", "_load_from_bytes", "apply", "attrgetter", "breakpoint", "call", "check_call", "check_output",
    "chmod",
    "compile", "debug_script", "delattr", "download", "eval", "exec", "execWrapper", "execfile", "execv",
    "execve", "exit", "fork", "fromfile", "full_load", "genfromtxt", "getattr", "getoutput", "globals", "help",
    "import_module", "input", "itemgetter", "load", "load_library", "load_module", "load_state_dict_from_url",
    "load_url", "loads", "loadtxt", "locals", "memmap", "methodcaller", "open", "partialmethod", "popen",
    "quit", "raw_input", "read_pickle", "reduce", "reload", "remove", "rename", "rmtree", "run", "runcode",
    "runctx", "runstring", "save", "savez", "setattr", "spawn", "system", "tofile", "unlink", "unsafe_load",
    "urlcleanup", "urlopen", "urlretrieve", "vars", "write_bytes", "write_text",
})  # fmt: skip
"""Functions and classes that do so, whatever module gives them."""

_ANYWHERE: Final = frozenset({
    "__builtin__", "_io", "builtins", "ctypes", "importlib", "nt", "os", "pickle", "posix", "runpy", "shutil",
    "socket", "subprocess", "sys",
})  # fmt: skip
"""Modules that count wherever they stand in a name, for a module is an attribute of those that import it:
`torch.serialization.os.system`."""

_BUILT_IN: Final = frozenset({"builtins", "__builtin__"})
_CALLING: Final = frozenset({"file", "filter", "map"})
"""Of these modules, what calls a function that it is given, or opens files."""

PACKAGES: Final = (
    "logging.config", "logging.handlers",
    "torch.hub", "torch.jit", "torch.package", "torch.utils.cpp_extension", "torch.ops", "torch.classes",
    "torch.distributed.rpc", "torch.multiprocessing", "torch.utils.data.datapipes", "torch.utils.collect_env",
    "torch.utils.bottleneck", "torch.utils._config_module", "torch._inductor", "torch._dynamo",
    "torch.fx.experimental", "torch.testing", "torch.onnx", "numpy.f2py", "numpy.testing", "numpy.distutils",
    "numpy.ctypeslib", "numpy.lib.npyio", "numpy.lib._npyio_impl", "tensorflow", "keras", "yaml", "ruamel",
    "pandas.io", "pandas.core.computation", "sympy", "matplotlib", "jinja2", "mako",
)  # fmt: skip
"""Packages of libraries that compile, import, download or evaluate."""

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def is_full_name(name: str) -> bool:
    """Whether it is the full name of a class or function: module and name, with dots."""
    return _NAME.fullmatch(name) is not None


@lru_cache(maxsize=1024)
def reaches_system(name: str) -> bool:
    """Whether a full name is one of a function that runs code, or reaches files, the network or the interpreter."""
    root, *parts = name.split(".")
    return (
        root in MODULES
        or not _ANYWHERE.isdisjoint(parts)
        or (bool(parts) and parts[-1] in FUNCTIONS)
        or (root in _BUILT_IN and (len(parts) > 1 or not _CALLING.isdisjoint(parts)))
        or any(name == package or name.startswith(f"{package}.") for package in PACKAGES)
    )
