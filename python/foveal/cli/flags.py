"""One table of flags for all commands, named as in llama.cpp where it has them."""

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

RUN, CHAT, INFO, BENCH = "run", "chat", "info", "bench"
CONVERT, QUANTIZE = "convert", "quantize"
PLAN, DEMO = "plan", "demo"
EVALUATE, CALIBRATE = "evaluate", "calibrate"
JUDGE = (EVALUATE, CALIBRATE)
TALK, MODEL = (RUN, CHAT), (RUN, CHAT, BENCH)
KEEP = (*MODEL, PLAN)

COMMANDS = {
    DEMO: "the built-in model reads built-in pictures: nothing to download",
    RUN: "answer one prompt",
    CHAT: "talk; /help lists what can be typed",
    INFO: "print metadata, tensors and sizes of a GGUF file",
    BENCH: "measure prefill and decode",
    PLAN: "what a conversation would take, from the headers alone",
    CONVERT: "make GGUF files from a Hugging Face folder",
    EVALUATE: "what every eviction policy costs a model: accuracy, divergence, bytes, time",
    CALIBRATE: "measure which heads look at what answers need; tables for --kv-tables",
    QUANTIZE: "make a smaller file: Q8_0, Q6_K, Q5_K_M, Q5_K, Q4_K_M, Q4_K, Q4_0, F16",
}

# Arguments without a flag: name, how it is shown, how many.
POSITIONAL: dict[str, tuple[tuple[str, str, str | None], ...]] = {
    INFO: (("path", "FILE", "?"),),
    PLAN: (("files", "MODEL [MMPROJ]", "*"),),
    CONVERT: (("folder", "HF_FOLDER", None),),
    QUANTIZE: (("source", "IN.gguf", None), ("target", "OUT.gguf", None), ("type", "TYPE", None)),
}


def integer(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text[1:] if text.startswith("-") else text
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"found {text!r:.60}, expected an integer from {low} to {high}")
        return int(text)

    return parse


def integers(text: str) -> list[int]:
    return [integer(0, 1 << 30)(part) for part in text.split(",")]


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e30 or "_" in text:
        raise argparse.ArgumentTypeError(f"found {text!r:.60}, expected a number")
    return value


def device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"found {text!r:.60}, expected auto, cpu, cuda or cuda:N")
    return text


def layers(text: str) -> int | str:
    return "auto" if text == "auto" else integer(0)(text)


def budget(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else text


@dataclass(frozen=True)
class Flag:
    """A flag: names, the commands that take it, help, how its value is read (None for a switch), the default."""

    names: tuple[str, ...]
    commands: tuple[str, ...]
    help: str
    value: Callable[[str], Any] | None = str
    default: Any = None
    metavar: str = "N"
    repeat: bool = False
    choices: tuple[str, ...] | None = None
    dest: str | None = None


FLAGS = (
    Flag(("-m", "--model"), (*KEEP, INFO), "text model (GGUF)", metavar="FILE"),
    Flag(("--mmproj",), KEEP, "picture encoder of that model (GGUF)", metavar="FILE"),
    Flag(("--image",), (DEMO,), "your own picture instead of the built-in ones", metavar="FILE"),
    Flag(("-q", "--question"), (DEMO,), "asked about it", metavar="TEXT"),
    Flag(("--kv-budget",), (DEMO,), "rows per head beside the full cache: N, N%%, NMiB", budget, 64),
    Flag(("-o", "--output"), (DEMO,), "folder for maps of what was kept; without it a temporary one", metavar="DIR"),
    Flag(("-t", "--threads"), (DEMO,), "threads; without it the physical cores", integer(1, 1024)),
    Flag(("--image",), TALK, "picture for the prompt; repeatable", metavar="FILE,...", repeat=True),
    Flag(("-p", "--prompt"), TALK, "the prompt; run reads standard input without it", metavar="TEXT"),
    Flag(("-f", "--file"), (RUN,), "read the prompt from a file", metavar="FILE"),
    Flag(("-sys", "--system-prompt"), TALK, "system message", metavar="TEXT"),
    Flag(("--raw",), (RUN,), "no chat turn: control tokens are parsed, <__media__> marks a picture", None),
    Flag(
        ("--chat-template",), TALK, "instead of the file's; jinja renders the file's own in a sandbox", metavar="NAME"
    ),
    Flag(("-n", "--predict", "--n-predict"), TALK, "tokens to generate, -1 = to the end", integer(-1), 256),
    Flag(("-c", "--ctx-size"), TALK, "context; 0 = what the model was trained for, 8192 at most", integer(0), 0),
    Flag(("-t", "--threads"), MODEL, "threads; without it the physical cores", integer(1, 1024)),
    Flag(
        ("-ngl", "--gpu-layers", "--n-gpu-layers"),
        MODEL,
        "the last N layers on the GPU; auto: as many as fit",
        layers,
        "auto",
    ),
    Flag(("--device",), MODEL, "auto, cpu, cuda, or cuda:N of --list-devices", device, "auto", "NAME"),
    Flag(
        ("--stream-prefill",),
        MODEL,
        "prompts read on the GPU also by layers on the CPU: auto (long ones), on, off",
        default="auto",
        choices=("auto", "on", "off"),
    ),
    Flag(("--no-mmproj-offload",), TALK, "the picture encoder stays on the CPU where layers are on a GPU", None),
    Flag(("--image-min-tokens",), (*TALK, PLAN), "least rows per picture", integer(1)),
    Flag(("--image-max-tokens",), (*TALK, PLAN), "most rows per picture", integer(1)),
    Flag(
        ("--vision-precision",),
        TALK,
        "products of the picture encoder",
        default="auto",
        choices=("auto", "f32", "bf16", "bf16x3"),
    ),
    Flag(("--temp",), TALK, "temperature, 0 = greedy", number, 0.0, "X"),
    Flag(("--top-k",), TALK, "0 = off", integer(0), 40),
    Flag(("--top-p",), TALK, "1 = off", number, 0.95, "X"),
    Flag(("--min-p",), TALK, "0 = off", number, 0.05, "X"),
    Flag(("--repeat-penalty",), TALK, "1 = off", number, 1.0, "X"),
    Flag(("--repeat-last-n",), TALK, "tokens that the penalty looks at", integer(0), 64),
    Flag(("-s", "--seed"), TALK, "-1 = a fresh one", integer(-1, 2**64 - 1), -1),
    Flag(("--stop",), TALK, "end the answer before this text; repeatable", metavar="TEXT", repeat=True),
    Flag(("--ignore-eos",), (RUN,), "go on past the end of the answer", None),
    Flag(("--kv-budget",), KEEP, "rows kept per head on average: N, N%%, NMiB, auto, none", budget, "none"),
    Flag(
        ("--kv-policy",),
        KEEP,
        "snapkv, pyramidkv, adakv, sparsemm, streaming, random",
        default="adakv",
        metavar="NAME",
    ),
    Flag(("--kv-mix",), KEEP, "none, vnorm, keydiff, fixed, mixkv, sharp", default="mixkv", metavar="NAME"),
    Flag(("--kv-window",), KEEP, "last rows, always kept, whose queries score the others", integer(0), 32),
    Flag(("--kv-sinks",), KEEP, "first rows, always kept", integer(0), 0),
    Flag(("--kv-scope",), KEEP, "prompt, or image: only rows of pictures may go", default="prompt", metavar="NAME"),
    Flag(("--kv-slack",), KEEP, "rows past the budget before a head is evicted again", integer(0), 32),
    Flag(("--kv-pin",), KEEP, "never evicted: system, last-turn, START:STOP with commas between", metavar="WHAT,..."),
    Flag(("--kv-on-full",), KEEP, "at the end of the context: stop, evict, error", default="stop", metavar="NAME"),
    Flag(("--kv-tables",), KEEP, "head scores and redundancy made by calibration", metavar="FILE"),
    Flag(("--kv-type",), KEEP, "storage of keys and values: f16, f32, q8_0, q4_0", default="f16", metavar="NAME"),
    Flag(("--kv-seed",), KEEP, "of policy random", integer(0, 2**63 - 1), 0),
    Flag(("--session",), TALK, "go on from this file when it is there, and write it at the end", metavar="FILE"),
    Flag(("--kv-report",), (RUN,), "write a page that shows what the KV cache kept", metavar="FILE"),
    Flag(
        ("--image",),
        (PLAN,),
        "size of pictures: 1920x1080, or twelve of them: 1920x1080x12",
        metavar="WxH",
        repeat=True,
    ),
    Flag(("--turns",), (PLAN,), "turns of the conversation", integer(1, 100000), 1),
    Flag(("--text-tokens",), (PLAN,), "text of a turn", integer(1, 1 << 24), 64),
    Flag(("-n", "--predict"), (PLAN,), "answer of a turn", integer(0, 1 << 24), 256),
    Flag(("--memory",), (PLAN,), "to fit in, such as 8GiB; without it what is available", metavar="SIZE"),
    Flag(("-o", "--output"), (PLAN,), "form of the table", default="md", choices=("md", "json")),
    Flag(("--images",), (BENCH,), "compare whole cache and budget on the pictures of a folder", metavar="DIR"),
    Flag(("--question",), (BENCH,), "asked about each picture", default="Describe the picture.", metavar="TEXT"),
    Flag(("--stats",), TALK, "print times, tokens/s and KV bytes", None),
    Flag(("-p", "--n-prompt"), (BENCH,), "prompt lengths, 0 = none", integers, [512], "N,..."),
    Flag(("-n", "--n-gen"), (BENCH,), "tokens to decode, 0 = none", integers, [128], "N,..."),
    Flag(("-d", "--n-depth"), (BENCH,), "rows in the context before", integers, [0], "N,..."),
    Flag(("-r", "--repetitions"), (BENCH,), "how often", integer(1), 5),
    Flag(("-o", "--output"), (BENCH,), "form of the table", default="md", choices=("md", "json")),
    Flag(("-o", "--outfile"), (CONVERT,), "the text model to write", metavar="OUT.gguf"),
    Flag(("--mmproj",), (CONVERT,), "the picture encoder to write", metavar="OUT.gguf"),
    Flag(("--outtype",), (CONVERT,), "type of the matrices", default="f16", choices=("f16", "bf16", "f32")),
    Flag(("-m", "--model"), JUDGE, "text model (GGUF)", metavar="FILE"),
    Flag(("--mmproj",), JUDGE, "picture encoder of that model (GGUF)", metavar="FILE"),
    Flag(("-t", "--threads"), JUDGE, "threads of each process", integer(1, 1024), 1),
    Flag(
        ("-o", "--output"),
        (EVALUATE,),
        "folder for items.jsonl, results.json, table.md, plot.svg; an interrupted run goes on from there",
        default="evaluation",
        metavar="DIR",
    ),
    Flag(("-o", "--output"), (CALIBRATE,), "the tables file to write", default="tables.gguf", metavar="OUT.gguf"),
    Flag(("--tasks",), JUDGE, "kinds of built-in pages: form, place, text, ground, chart, chat", metavar="NAME,..."),
    Flag(("--text",), (EVALUATE,), "tasks on long text: needle, multikey, prose", metavar="NAME,..."),
    Flag(("--lengths",), (EVALUATE,), "tokens of long text, each a task", integers, [1000, 2000, 4000, 6000], "N,..."),
    Flag(("--data",), JUDGE, "your own items: JSONL of image, question, answers", metavar="FILE"),
    Flag(("--count",), (EVALUATE,), "items a task (200)", integer(1)),
    Flag(("--count",), (CALIBRATE,), "items a task", integer(1), 40),
    Flag(("--questions",), (EVALUATE,), "questions on a picture when it is compressed first", integer(1, 64), 2),
    Flag(("--policies",), (EVALUATE,), "full, random, streaming and policies; without it all", metavar="NAME,..."),
    Flag(
        ("--mixes",),
        (EVALUATE,),
        "mixes; vnorm, keydiff, fixed go with snapkv alone; without it all",
        metavar="NAME,...",
    ),
    Flag(
        ("--budgets",), (EVALUATE,), "rows, or shares of what was read (64,128,256,512,5%%,10%%,20%%)", metavar="N,..."
    ),
    Flag(
        ("--protocol",),
        (EVALUATE,),
        "is the question part of what is compressed?",
        default="both",
        choices=("inside", "after", "both"),
    ),
    Flag(("--kv-window",), (EVALUATE,), "last rows, always kept, whose queries score the others", integer(1), 32),
    Flag(("--kv-sinks",), (EVALUATE,), "first rows, always kept, counted in the budget", integer(0), 0),
    Flag(("--kv-tables",), (EVALUATE,), "of `foveal calibrate`; sparsemm is left out without it", metavar="FILE"),
    Flag(
        ("--check",),
        (EVALUATE,),
        "items a task also run as sessions of their own: same rows? peak bytes",
        integer(0),
        2,
    ),
    Flag(("--first-seed",), (EVALUATE,), "of the built-in pages", integer(0), 0),
    Flag(("--jobs",), (EVALUATE,), "processes; without it one a core", integer(1, 256)),
    Flag(("--quick",), (EVALUATE,), "a small grid: 20 items a task, few policies, budgets 64 and 128", None),
    Flag(("-t", "--threads"), (QUANTIZE,), "threads; without it as many as the machine has", integer(1, 1024)),
)


class Parser(argparse.ArgumentParser):
    """argparse that suggests the nearest flag."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"foveal: {message}; `{self.prog} --help`\n")

    def joined(self, args: list[str]) -> list[str]:
        """Flags with their values as one word: what begins with "-" may be a value too."""
        taking = {name for action in self._actions if action.nargs is None for name in action.option_strings}
        out: list[str] = []
        rest = iter(args)
        for arg in rest:
            if arg == "--":
                return [*out, arg, *rest]
            value = next(rest, None) if arg in taking else None
            out.append(arg if value is None else f"{arg}={value}")
        return out

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:  # which argparse would take out
            return self._get_value(action, "--")
        return super()._get_values(action, arg_strings)

    def parse(self, args: list[str]) -> argparse.Namespace:
        known, unknown = self.parse_known_args(self.joined(args))
        for arg in unknown:
            if arg.startswith("-") and arg != "--":
                names = [name for action in self._actions for name in action.option_strings]
                near = difflib.get_close_matches(arg.split("=")[0], names, 1, 0.0)
                self.error(f"unknown flag {arg!r:.60}" + (f"; did you mean {near[0]}?" if near else ""))
        if unknown:
            self.error(f"unexpected argument {unknown[0]!r:.60}")
        return known


def parser_for(command: str) -> Parser:
    parser = Parser(prog=f"foveal {command}", description=COMMANDS[command], allow_abbrev=False)
    for dest, shown, count in POSITIONAL.get(command, ()):
        parser.add_argument(dest, nargs=count, metavar=shown)
    for flag in FLAGS:
        if command not in flag.commands:
            continue
        if flag.value is None:
            parser.add_argument(*flag.names, action="store_true", help=flag.help)
            continue
        extra: dict[str, Any] = {"choices": flag.choices} if flag.choices else {"metavar": flag.metavar}
        shown = f" ({flag.default})" if flag.default not in (None, [512], [128], [0]) else ""
        parser.add_argument(
            *flag.names,
            type=flag.value,
            default=[] if flag.repeat else flag.default,
            action="append" if flag.repeat else "store",
            help=flag.help + shown,
            **extra,
        )
    return parser


def joined_counts(args: list[str]) -> list[str]:
    """ "1920x1080 x12" as one word."""
    out: list[str] = []
    for arg in args:
        if out and re.fullmatch(r"x\d+", arg) and re.search(r"^(--image=)?\d+x\d+$", out[-1]):
            out[-1] += arg
        else:
            out.append(arg)
    return out


def parse(argv: list[str]) -> tuple[str, argparse.Namespace]:
    """(command, its flags). Ends the program with status 2 on a usage error, 0 after help."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print("usage: foveal COMMAND [flags]\n")
        for name, text in COMMANDS.items():
            print(f"  {name:10}{text}")
        print("\n`foveal COMMAND --help` lists the flags of a command, `foveal --list-devices` the GPUs.")
        raise SystemExit(0)
    if argv[0] in ("--version", "version"):
        from .. import __version__

        print(f"foveal {__version__}")
        raise SystemExit(0)
    if argv[0] == "--list-devices":
        from .. import list_devices

        print("\n".join(list_devices()))
        raise SystemExit(0)
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, 1, 0.0)
        print(f"foveal: unknown command {argv[0]!r:.60}; did you mean {near[0]}?", file=sys.stderr)
        raise SystemExit(2)
    args = joined_counts(argv[1:]) if argv[0] == PLAN else argv[1:]
    return argv[0], parser_for(argv[0]).parse(args)
