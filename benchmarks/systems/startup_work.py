"""What `startup.py` has done in a process of its own, by the code of whichever checkout ``PYTHONPATH`` names.

It uses nothing but what every version of the package has had, and prints one line of JSON::

    PYTHONPATH=CHECKOUT python benchmarks/systems/startup_work.py ORDER.json
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_mib() -> float:
    """Most memory that this process has held, MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # `ru_maxrss` counts what the process that started this one held, too.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(call: Callable[[], Any]) -> float:
    """Wall time of a call, seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def model_of(order: dict[str, Any]) -> Any:
    """The model that an order names, ready: what a first call prepares is done."""
    import torch

    from r3mem import Backbone, R3Mem

    if order["threads"]:
        torch.set_num_threads(order["threads"])
    torch.set_flush_denormal(True)
    model = R3Mem(Backbone(order["backbone"], dtype=order["dtype"], lora_rank=0)).eval()
    model.set_ratio(order["ratio"])
    model.retain(order["texts"][0])
    return model


def short_texts(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Short texts one by one and in one call; and one memory that is fed in pieces, and at once."""
    model, texts = model_of(order), order["texts"]
    found = []
    for count in order["counts"]:
        some = texts[:count]
        found += [
            {"what": f"{count} texts, one by one", "seconds": timed(lambda some=some: [model.retain(t) for t in some])},
            {"what": f"{count} texts, one call", "seconds": timed(lambda some=some: model.retain(some))},
        ]

    def feed() -> None:
        memory = None
        for text in texts[: order["pieces"]]:
            memory = model.retain(text, memory)

    whole = "".join(texts[: order["pieces"]])
    found += [
        {"what": f"one memory, {order['pieces']} pieces", "seconds": timed(feed)},
        {"what": "one memory, one call", "seconds": timed(lambda: model.retain(whole))},
    ]
    return found


def many_texts(order: dict[str, Any]) -> list[dict[str, Any]]:
    """The peak memory of retaining many texts in one call, and what the process held at most before."""
    model, (rows, tokens) = model_of(order), order["many"]
    ids = model.backbone.tokenizer("".join(order["texts"]))["input_ids"]
    ids = (ids * (rows * tokens // len(ids) + 1))[: rows * tokens]
    before = peak_mib()
    seconds = timed(lambda: model.retain([ids[at : at + tokens] for at in range(0, rows * tokens, tokens)]))
    what = f"{rows} texts of {tokens} tokens, one call"
    return [{"what": what, "seconds": seconds, "peak_mib": peak_mib(), "peak_before_mib": before}]


def main() -> None:
    """Do what the order says."""
    import r3mem

    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rows = many_texts(order) if order["part"] == "many" else short_texts(order)
    print(json.dumps({"package": r3mem.__file__, "rows": rows}))


if __name__ == "__main__":
    main()
