"""How a run is spread over processes, where Lightning's own strategies do not do."""

from lightning_modules.strategies.deepspeed import AdapterDeepSpeedStrategy, check_strategy
from lightning_modules.strategies.fsdp import AdapterFSDPStrategy

__all__ = ["AdapterDeepSpeedStrategy", "AdapterFSDPStrategy", "check_strategy"]
