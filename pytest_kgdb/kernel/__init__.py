"""The kernel: found or built, by content, each once."""

from ._config import Config
from ._model import Kernel
from ._modules import build_module
from ._prepare import prepare
from ._publish import depmod
from ._source import file_hash

__all__ = ["Config", "Kernel", "build_module", "depmod", "file_hash", "prepare"]
