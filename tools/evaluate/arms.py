"""The arms of the comparison: policy, mix, budget."""

from dataclasses import dataclass

from foveal.errors import ArgumentError
from foveal.kv import KV

PLAIN = ("full", "random", "streaming")  # no mix
MIXED = ("snapkv", "pyramidkv", "adakv", "sparsemm")
ABLATIONS = ("vnorm", "keydiff", "fixed")
MIXES = ("none", "mixkv", "sharp", *ABLATIONS)


@dataclass(frozen=True)
class Keep:
    """What all arms of a run share: rows that always stay, and the tables of `foveal calibrate`."""

    window: int = 32
    sinks: int = 0
    tables: str | None = None

    @property
    def least(self) -> int:
        """The smallest budget that leaves a row to choose."""
        return self.sinks + self.window + 1


@dataclass(frozen=True, order=True)
class Arm:
    policy: str
    mix: str
    budget: str  # rows, or a percentage of the rows before eviction

    @property
    def id(self) -> str:
        return f"{self.policy}/{self.mix}/{self.budget}"

    def kv(self, rows: int, keep: Keep, dtype: str) -> KV:
        """Options for `rows` rows a head."""
        return KV(rows, self.policy, self.mix, window=keep.window, sinks=keep.sinks,  # type: ignore[arg-type]
                  tables=keep.tables, dtype=dtype)  # fmt: skip

    def rows(self, n: int, keep: Keep) -> int:
        """What the budget comes to for n rows."""
        if not self.budget.endswith("%"):
            return int(self.budget)
        return max(keep.least, -int(-n * float(self.budget[:-1]) // 100))


def grid(policies: list[str], mixes: list[str], budgets: list[str], tables: bool) -> list[Arm]:
    """full once; random and streaming without mixes; ablations (vnorm, keydiff, fixed) on snapkv alone."""
    for p in policies:
        if p not in PLAIN and p not in MIXED:
            raise ArgumentError(f"--policies: found {p!r:.40}, expected some of {', '.join((*PLAIN, *MIXED))}")
    for m in mixes:
        if m not in MIXES:
            raise ArgumentError(f"--mixes: found {m!r:.40}, expected some of {', '.join(MIXES)}")
    for b in budgets:
        number = b.removesuffix("%")
        if not b.isascii() or not number.replace(".", "", 1).isdigit() or (b == number and not b.isdigit()):
            raise ArgumentError(f"--budgets: found {b!r:.40}, expected rows such as 64, or shares such as 10%")
    if "sparsemm" in policies and not tables:
        policies = [p for p in policies if p != "sparsemm"]
    arms = [Arm("full", "none", "all")]
    for budget in budgets:
        for policy in policies:
            if policy == "full":
                continue
            own = ["none"] if policy in PLAIN else [m for m in mixes if m not in ABLATIONS or policy == "snapkv"]
            arms += [Arm(policy, mix, budget) for mix in own]
    return arms
