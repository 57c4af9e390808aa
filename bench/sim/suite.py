# SPDX-License-Identifier: Apache-2.0
"""The workloads that scheduling figures refer to, by name, with the options of slipstream-sim. Names that begin with x_ chose
nothing while the policy was made."""

import os

WEKA = {"trace": "weka_claude_code_dev", "max-steps": 50}
W70 = {**WEKA, "profile": "70b", "limit": 60, "engines": 4}
MOON = {"profile": "70b", "engines": 8, "limit": 4000}


def synth(spec, limit, rate, cache=0, engines=4, **more):
    return {"synth": spec, "limit": limit, "rate": rate, "cache": cache, "engines": engines, **more}


SUITE = {f"weka{users}": {**W70, "users": users} for users in (16, 24, 32, 40, 48, 56)}
SUITE |= {
    "moon": {"trace": "mooncake_conversation", **MOON},
    "moonH": {"trace": "mooncake_conversation", **MOON, "speed": .5},
    "x_moonfull": {"trace": "mooncake_conversation", **MOON, "speed": 1.2},
    "moonS": {"trace": "mooncake_synthetic", **MOON, "speed": .5},
    "who": {"trace": "whowhen", "profile": "8b", "engines": 4, "limit": 150, "rate": 1, "cache": 120000, "max-steps": 40},
    "x_wekagap5": {**W70, "users": 32, "gap-cap": 5},
    "x_wekagap300": {**W70, "users": 32, "gap-cap": 300},
    "x_wekagap1800": {**W70, "users": 32, "gap-cap": 1800},
    "x_weka8b": {**WEKA, "profile": "8b", "limit": 100, "engines": 8, "users": 64},
    "x_wekarate": {**W70, "rate": .03},
    "x_wekaeng8": {**WEKA, "profile": "70b", "limit": 100, "engines": 8, "users": 56},
    "x_weka1": {**WEKA, "profile": "70b", "limit": 40, "engines": 1, "users": 8},
    "x_wekafull": {"trace": "weka_claude_code_dev", "profile": "70b", "limit": 60, "engines": 4, "users": 32},
    "x_host": {**W70, "users": 32, "host": 450000},
    # Free: all KV fits.
    "mr": synth("mapreduce:fan=8,ctx=12000", 300, .8),
    "mrown": synth("mapreduce:fan=16,ctx=24000,share=0", 200, .4),
    "pipe": synth("pipeline", 200, .6),
    "debate": synth("debate", 300, 1.5),
    "chat": synth("chat", 150, .8),
    "sup": synth("supervisor", 100, .3),
    "tree": synth("tree", 150, 1),
    "mix": synth("mix", 200, .8),
    "sup1": synth("supervisor", 60, .1, engines=1),
    # Pressed: small KV caches.
    "sup150": synth("supervisor", 100, .3, 150000),
    "mr100": synth("mapreduce:fan=8,ctx=12000", 300, .6, 100000),
    "deb50": synth("debate", 200, .8, 50000),
    "pipe100": synth("pipeline", 200, .5, 100000),
    "chat60": synth("chat", 150, .6, 60000),
    "tree30": synth("tree", 100, .6, 30000),
    "mix100": synth("mix", 200, .6, 100000),
    "x_sup100": synth("supervisor:subs=6", 80, .2, 100000),
    "x_chat40": synth("chat", 150, .5, 40000),
    "x_mr150": synth("mapreduce:fan=12,ctx=16000", 200, .4, 150000),
    "x_pipe8": synth("pipeline:logfirst=1", 200, .5, 100000),
    "x_mixhot": synth("mix", 200, .9, 80000),
    "x_tree50": synth("tree:b=6,keep=3", 80, .3, 50000),
    "x_sup70": synth("supervisor", 80, .1, 150000, profile="70b"),
    # Wide: one fan-out at a time; share=0: chunks of their own, and a reduce over all.
    "fan4": synth("mapreduce:fan=4,share=1,ctx=12000", 60, .2, engines=8),
    "fan16": synth("mapreduce:fan=16,share=1,ctx=12000", 60, .2, engines=8),
    "fan64": synth("mapreduce:fan=64,share=1,ctx=12000", 60, .1, engines=8),
    "own16": synth("mapreduce:fan=16,share=0,ctx=32000", 60, .2, engines=8),
    "own64": synth("mapreduce:fan=64,share=0,ctx=128000", 60, .1, engines=8),
    "x_own32": synth("mapreduce:fan=32,share=0,ctx=96000", 60, .12, engines=8),
    "x_own128": synth("mapreduce:fan=128,share=0,ctx=128000", 40, .06, engines=8),
    "x_own64b": synth("mapreduce:fan=64,share=0,ctx=64000", 60, .15, engines=8),
    "x_fan32": synth("mapreduce:fan=32,share=1,ctx=20000", 60, .15, engines=8),
}
# "The best baseline" is the best of exactly these, per metric and run.
BASELINES = ["least", "wfleast", "sglang", "sglang:idx=1", "llmd:weights", "dynamo", "cost"]
# Where information is taken away from the policy.
ROBUST = ["weka24", "weka32", "weka48", "sup150", "own64", "mix100", "chat60", "mr"]


def trace_path(name):
    """A real trace lies in $SLIPSTREAM_TRACES; None when it does not."""
    path = os.path.join(os.environ.get("SLIPSTREAM_TRACES", ""), name + ".jsonl.gz")
    return path if os.environ.get("SLIPSTREAM_TRACES") and os.path.exists(path) else None


def options(name, seed, **more):
    """Arguments of slipstream-sim, or None where the trace is missing."""
    args = []
    for key, value in {**SUITE[name], "seed": seed, **more}.items():
        if key == "trace" and trace_path(value) is None:
            return None
        if value is True:
            args.append(f"--{key}")
        else:
            args.append(f"--{key}={trace_path(value) if key == 'trace' else value}")
    return args
