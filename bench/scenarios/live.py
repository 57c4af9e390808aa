# SPDX-License-Identifier: Apache-2.0
"""Policies compared with the real processes: gateways, scheduler and simulated engines in scaled time, beside slipstream-sim on
the same workload. What should agree is what a model second means in both: hit rate, mean latency of requests and workflows."""

import json
import os
import subprocess
import sys

from harness import CPUS, ROOT, free_port, program, row, say, wait_http

sys.path.insert(0, os.path.join(ROOT, "bench", "sim"))
import suite  # noqa: E402

ENGINES, PROFILE, KV_TOKENS, SEED = 4, "70b", 450000, 1
SCALE = float(os.environ.get("LIVE_SCALE", "20"))
POLICIES = ["least", "sglang:idx=1", "workflow"]
AGREE = {"hit_points": ("hit", 5), "e2e_pct": ("e2e_mean", 10), "wf_pct": ("wf_mean", 10)}
DIGEST_SEED = 7


class System:
    """Two gateway workers, scheduler, mailbox and engines, whose KV events tell what they hold."""

    def __init__(self, b, policy):
        self.b, self.dir = b, b.subdir()
        self.ports = [free_port() for _ in range(ENGINES)]
        self.port = free_port()
        self.urls = ",".join(f"http://127.0.0.1:{p}" for p in self.ports)
        conf = self.configure(policy)
        self.running = [b.start(self.engine(i), CPUS) for i in range(ENGINES)]
        for p, port in zip(self.running, self.ports):
            wait_http(f"http://127.0.0.1:{port}/health", p)
        self.running += [b.start([program(n), "--config", conf], CPUS) for n in ("slipstream-scheduler", "slipstream-mailbox")]
        for i in (1, 2):
            p = b.start([program("slipstream-gateway"), "--config", conf, "--instance", str(i)], CPUS)
            self.running.append(p)
            wait_http(f"http://127.0.0.1:{self.port}/v1/models", p)

    def engine(self, i):
        return [program("slipstream-engine"), "--listen", f"127.0.0.1:{self.ports[i]}", "--id", f"e{i + 1}", "--model", "sim",
                "--profile", PROFILE, "--cache-tokens", str(KV_TOKENS), "--time-scale", f"{SCALE:g}", "--priority",
                "--kv-events", f"ipc://{self.dir}/kv{i}", "--kv-replay", f"ipc://{self.dir}/replay{i}",
                "--kv-content", str(DIGEST_SEED)]

    def configure(self, policy):
        text = [f"common: {{run_dir: {self.dir}, log_level: warn, time_scale: {SCALE:g}}}",
                f"gateway: {{listen: ['127.0.0.1:{self.port}'], first_byte_timeout_ms: 60m, total_timeout_ms: 60m}}",
                f"scheduler: {{policy: '{policy}', gate_wait_ms: 0, digest_seed: {DIGEST_SEED}}}", "engines:"]
        for i, port in enumerate(self.ports):
            text.append(f"  - {{id: e{i + 1}, url: 'http://127.0.0.1:{port}', models: [sim], priority: true, kv_tokens: {KV_TOKENS},"
                        f" kv_events: 'ipc://{self.dir}/kv{i}', kv_replay: 'ipc://{self.dir}/replay{i}', kv_content: true}}")
        path = os.path.join(self.dir, "slipstream.yaml")
        with open(path, "w") as f:
            f.write("\n".join(text) + "\n")
        return path

    def stop(self):
        for p in reversed(self.running):
            self.b.stop(p)


def live(b, policy, trace, users):
    system = System(b, policy)
    report = os.path.join(system.dir, "report.json")
    try:
        subprocess.run([program("slipstream-replay"), "--url", f"http://127.0.0.1:{system.port}", "--engines", system.urls,
                        "--policy", policy, "--time-scale", f"{SCALE:g}", "--final", "--trace", trace, "--sessions", "40",
                        "--max-steps", "20", "--users", str(users), "--gap-cap", "60", "--seed", str(SEED), "--json", report],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finally:
        system.stop()
    with open(report) as f:
        return json.loads(f.readline())


def simulated(policy, trace, users):
    p = subprocess.run([program("slipstream-sim"), "--trace", trace, "--profile", PROFILE, "--engines", str(ENGINES), "--cache",
                        str(KV_TOKENS), "--limit", "40", "--max-steps", "20", "--users", str(users), "--gap-cap", "60", "--seed",
                        str(SEED), "--policy", policy, "--json", "-"], capture_output=True, text=True, check=True)
    return json.loads(p.stdout)


def run(b):
    trace = suite.trace_path("weka_claude_code_dev")
    rows = []
    for users in (16, 32):
        real, model = {}, {}
        for policy in POLICIES if trace else []:
            real[policy], model[policy] = live(b, policy, trace, users), simulated(policy, trace, users)
            say(f"  {users} users, {policy:14} " + ", ".join(
                f"{k} {real[policy][k]:.4g} ({model[policy][k]:.4g})" for k in ("hit", "ttft_mean", "e2e_mean", "wf_mean")))
        for name, (key, most) in AGREE.items():
            worst = None
            for policy in real:
                x, y = real[policy][key], model[policy][key]
                off = abs(x - y) if key == "hit" else 100 * abs(x / y - 1)
                worst = (off, policy, y) if policy == "workflow" else worst
                rows.append(row(f"live{users}_{policy.replace(':', '_').replace('=', '')}_{name}", off, name.split("_")[1],
                                baseline=f"slipstream-sim, {policy}", baseline_value=y))
            rows.append(row(f"live{users}_{name}", worst and worst[0], name.split("_")[1], most=most,
                            baseline="slipstream-sim, workflow", baseline_value=worst and worst[2]))
        for short, key in (("wf", "wf_mean"), ("e2e", "e2e_mean")):
            others = [real[p][key] for p in real if p != "workflow"]
            value = real["workflow"][key] / min(others) if real else None
            rows.append(row(f"live{users}_{short}_vs_best", value, "x", baseline="best of " + ", ".join(POLICIES[:-1]),
                            baseline_value=min(others, default=None), ratio=value))
    return rows
