#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The simulated engine as a process: its HTTP surface, its cache as seen from outside, its faults.

usage: engine_http.py PATH-OF-slipstream-engine [unittest arguments]
"""
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
import unittest

ENGINE = None


class Engine:
    def __init__(self, *args):
        self.proc = subprocess.Popen(
            [ENGINE, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", *args],
            stderr=subprocess.PIPE, text=True)
        line = self.proc.stderr.readline()
        found = re.search(r"listening address=127\.0\.0\.1:(\d+) control=127\.0\.0\.1:(\d+)", line)
        assert found, line
        self.port, self.control = int(found[1]), int(found[2])

    def cpu(self):
        """Nanoseconds that its one thread has run."""
        with open("/proc/%d/schedstat" % self.proc.pid) as f:
            return int(f.read().split()[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.terminate()
        code = self.proc.wait(10)
        said = self.proc.stderr.read()
        self.proc.stderr.close()
        assert code in (0, 9) and "Sanitizer" not in said, (code, said)  # 9: fault die

    def call(self, method, path, body=None, control=False, headers=None):
        c = http.client.HTTPConnection("127.0.0.1", self.control if control else self.port, timeout=20)
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        c.request(method, path, body, headers or {})
        r = c.getresponse()
        data = r.read()
        c.close()
        return r.status, data, r

    def post(self, path, body):
        status, data, _ = self.call("POST", path, body)
        return status, json.loads(data)

    def chat(self, content, max_tokens=4, **more):
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        return self.post("/v1/chat/completions", dict(model="sim", messages=messages, max_tokens=max_tokens, **more))

    def fault(self, **spec):
        status, data, _ = self.call("POST", "/fault", spec, control=True)
        assert status == 200, data

    def metric(self, name):
        _, data, _ = self.call("GET", "/metrics", control=True)
        found = re.search(r"^%s\{[^}]*\} (\S+)$" % re.escape(name), data.decode(), re.M)
        assert found, name
        return float(found[1])

    def wait_metric(self, name, wanted):
        end = time.monotonic() + 10
        while self.metric(name) != wanted:
            assert time.monotonic() < end, "%s is %s, not %s" % (name, self.metric(name), wanted)

    def raw(self, data):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        s.sendall(data)
        return s


def request(body, path="/v1/chat/completions", extra=""):
    body = json.dumps(body)
    return ("POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (path, extra, len(body), body)).encode()


def chat_body(tokens, stream=False, content="hello"):
    return dict(model="sim", messages=[dict(role="user", content=content)], max_tokens=tokens, stream=stream)


def read_all(s):
    """Everything until the end; None behind it when the connection was reset."""
    data = b""
    try:
        while True:
            more = s.recv(65536)
            if not more:
                return data, True
            data += more
    except ConnectionResetError:
        return data, None
    finally:
        s.close()


def read_until(s, mark):
    data = b""
    while mark not in data:
        more = s.recv(65536)
        assert more, data
        data += more
    return data


def events(data):
    return [e[len("data: "):] for e in data.decode().split("\n\n") if e.startswith("data: ")]


class Surface(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.e = Engine("--profile", "8b", "--time-scale", "100")

    @classmethod
    def tearDownClass(cls):
        cls.e.__exit__()

    def test_models_health_version(self):
        status, data, _ = self.e.call("GET", "/v1/models")
        self.assertEqual(json.loads(data)["data"][0]["id"], "sim")
        self.assertEqual(self.e.call("GET", "/health")[0], 200)
        self.assertTrue(json.loads(self.e.call("GET", "/version")[1])["simulated"])
        self.assertEqual(self.e.call("GET", "/nowhere")[0], 404)
        self.assertEqual(self.e.call("GET", "/v1/chat/completions")[0], 405)

    def test_output_has_exactly_max_tokens_of_four_bytes(self):
        for n in 1, 2, 17, 300:
            status, a = self.e.chat("count %d" % n, n)
            self.assertEqual(status, 200)
            self.assertEqual(len(a["choices"][0]["message"]["content"]), 4 * n)
            self.assertEqual(a["usage"]["completion_tokens"], n)
            self.assertEqual(a["system_fingerprint"], "slipstream-engine-simulated")

    def test_stream_and_whole_answer_say_the_same(self):
        _, whole = self.e.chat("same", 20)
        _, data, r = self.e.call("POST", "/v1/chat/completions",
                                 dict(chat_body(20, True, "same"), stream_options=dict(include_usage=True)))
        self.assertTrue(r.getheader("content-type").startswith("text/event-stream"))
        ev = events(data)
        self.assertEqual(ev[-1], "[DONE]")
        chunks = [json.loads(x) for x in ev[:-1]]
        self.assertEqual(chunks[0]["choices"][0]["delta"]["role"], "assistant")
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
        self.assertEqual(text, whole["choices"][0]["message"]["content"])
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 20)
        self.assertEqual(chunks[-2]["choices"][0]["finish_reason"], "length")

    def test_the_next_turn_hits_prompt_and_output(self):
        messages = [dict(role="system", content="s" * 901), dict(role="user", content="q" * 333)]
        _, one = self.e.chat(messages, 100)
        turn = one["usage"]["prompt_tokens"] + 100
        self.assertEqual(one["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        messages += [one["choices"][0]["message"], dict(role="user", content="and then?")]
        _, two = self.e.chat(messages, 5)
        self.assertEqual(two["usage"]["prompt_tokens_details"]["cached_tokens"], turn // 16 * 16)

    def test_a_repeated_prompt_is_never_a_full_hit(self):
        messages = [dict(role="user", content="r" * (64 * 4 - 12))]  # 64 tokens with its markers
        _, one = self.e.chat(messages, 1)
        self.assertEqual(one["usage"]["prompt_tokens"], 64)
        _, two = self.e.chat(messages, 1)
        self.assertEqual(two["usage"]["prompt_tokens_details"]["cached_tokens"], 48)

    def test_salt_separates(self):
        self.e.chat("z" * 400, 1)
        _, b = self.e.chat("z" * 400, 1, cache_salt="other")
        self.assertEqual(b["usage"]["prompt_tokens_details"]["cached_tokens"], 0)

    def test_anthropic_stream_has_the_events_in_order(self):
        _, data, _ = self.e.call("POST", "/v1/messages", dict(model="sim", max_tokens=2, stream=True, system="x",
                                                              messages=[dict(role="user", content="hi")]))
        names = re.findall(r"^event: (.*)$", data.decode(), re.M)
        self.assertEqual(names[0:2], ["message_start", "content_block_start"])
        self.assertEqual(names[-3:], ["content_block_stop", "message_delta", "message_stop"])
        self.assertEqual(set(names[2:-3]), {"content_block_delta"})
        status, a = self.e.post("/v1/messages", dict(model="x", max_tokens=2, messages=[]))
        self.assertEqual((status, a["type"], a["error"]["type"]), (404, "error", "not_found_error"))

    def test_forced_tool_streams_its_arguments(self):
        tool = dict(type="function", function=dict(name="weather", parameters=dict(
            type="object", properties=dict(city=dict(type="string"), days=dict(type="integer")))))
        body = dict(chat_body(50, True), tools=[tool], tool_choice="required")
        _, data, _ = self.e.call("POST", "/v1/chat/completions", body)
        calls = [c["choices"][0]["delta"]["tool_calls"][0] for c in map(json.loads, events(data)[:-1])
                 if c["choices"] and c["choices"][0]["delta"].get("tool_calls")]
        self.assertEqual(calls[0]["function"]["name"], "weather")
        self.assertEqual(json.loads("".join(c["function"]["arguments"] for c in calls)),
                         dict(city="simulated", days=1))

    def test_embeddings_and_tokens(self):
        _, a = self.e.post("/v1/embeddings", dict(model="sim", input=["a b", "c"], dimensions=5))
        self.assertEqual(len(a["data"][0]["embedding"]), 5)
        _, t = self.e.post("/tokenize", dict(model="sim", prompt="tokens of f\u00f6ur"))
        _, d = self.e.post("/detokenize", dict(model="sim", tokens=t["tokens"]))
        self.assertEqual(d["prompt"], "tokens of f\u00f6ur")
        self.assertEqual(t["count"], 4)

    def test_errors_are_vllms(self):
        status, a = self.e.post("/v1/completions", dict(model="nope", prompt="x"))
        self.assertEqual((status, a["error"]["type"], a["error"]["param"], a["error"]["code"]),
                         (404, "NotFoundError", "model", 404))
        status, a = self.e.post("/v1/completions", dict(prompt="x", workflow_metadata=dict(workflow_id="w")))
        self.assertEqual(status, 400)
        status, data, _ = self.e.call("POST", "/v1/completions", "{")
        self.assertEqual(status, 400)

    def test_pipelined_and_chunked_requests(self):
        one = request(chat_body(1), extra="X-Request-Id: first\r\n")
        body = json.dumps(chat_body(2)).encode()
        parts = b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + 7]), body[i:i + 7]) for i in range(0, len(body), 7))
        two = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: second\r\n" \
              b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + parts + b"0\r\n\r\n"
        s = self.e.raw(b"")
        for i in range(0, len(one + two), 13):  # in dribs, over message borders
            s.sendall((one + two)[i:i + 13])
        data, _ = read_all(s)
        self.assertEqual(data.count(b"HTTP/1.1 200 OK"), 2)
        self.assertLess(data.index(b"chatcmpl-first"), data.index(b"chatcmpl-second"))

    def test_malformed_heads_are_refused(self):
        for raw in (b"garbage\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
                    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                    b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
                    b"GET /" + b"a" * 70000):
            data, _ = read_all(self.e.raw(raw))
            self.assertRegex(data[:16], rb"HTTP/1.1 4(00|13|31)")
            self.assertIn(b"connection: close", data)

    def test_expect_continue(self):
        body = json.dumps(chat_body(1)).encode()
        s = self.e.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                       b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        self.assertTrue(read_until(s, b"\r\n\r\n").startswith(b"HTTP/1.1 100"))
        s.sendall(body)
        self.assertIn(b"200 OK", read_all(s)[0])


class Life(unittest.TestCase):
    def test_a_client_that_leaves_cancels_its_request(self):
        with Engine("--profile", "70b", "--time-scale", "1") as e:
            waiting = e.raw(request(chat_body(100000)))
            streaming = e.raw(request(chat_body(100000, True)))
            e.wait_metric("vllm:num_requests_running", 2)
            read_until(streaming, b"data: ")
            waiting.close()
            e.wait_metric("slipstream_engine_cancelled_total", 1)
            streaming.close()
            e.wait_metric("slipstream_engine_cancelled_total", 2)
            e.wait_metric("vllm:num_requests_running", 0)
            e.wait_metric("vllm:kv_cache_usage_perc", 0)

    def test_a_full_cache_queues_and_a_release_lets_the_next_in(self):
        with Engine("--cache-tokens", "4000", "--time-scale", "1") as e:
            a = e.raw(request(chat_body(3000, True, "a")))
            e.wait_metric("vllm:num_requests_running", 1)
            b = e.raw(request(chat_body(2000, True, "b")))
            e.wait_metric("vllm:num_requests_waiting", 1)
            head = read_until(b, b"\r\n\r\n")  # as vLLM: before there is a token
            self.assertTrue(head.startswith(b"HTTP/1.1 200") and b"data: " not in head)
            a.close()
            e.wait_metric("vllm:num_requests_waiting", 0)
            self.assertIn(b"data: ", read_until(b, b"data: "))
            b.close()
            status, x = e.chat("x" * 16000, 1)
            self.assertEqual((status, x["error"]["type"]), (400, "BadRequestError"))
            self.assertIn("maximum context length", x["error"]["message"])

    def test_priority_goes_first(self):
        with Engine("--seqs", "1", "--priority", "--time-scale", "50") as e:
            first = e.raw(request(chat_body(200, content="first")))
            e.wait_metric("vllm:num_requests_running", 1)
            late = e.raw(request(dict(chat_body(20, content="b"), priority=7)))
            e.wait_metric("vllm:num_requests_waiting", 1)
            soon = e.raw(request(dict(chat_body(20, content="c"), priority=-7)))
            e.wait_metric("vllm:num_requests_waiting", 2)
            order = []
            def wait(name, s):
                read_until(s, b"200 OK")
                order.append(name)
            threads = [threading.Thread(target=wait, args=x) for x in (("late", late), ("soon", soon))]
            [t.start() for t in threads]
            [t.join(20) for t in threads]
            self.assertEqual(order, ["soon", "late"])
            for s in (first, late, soon):
                s.close()

    def test_idle_connections_are_closed(self):
        with Engine("--keepalive-ms", "100") as e:
            s = e.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            data, clean = read_all(s)
            self.assertTrue(clean and data.startswith(b"HTTP/1.1 200"))
            self.assertNotIn(b"connection: close", data)

    def test_time_runs_as_the_profile_says(self):
        with Engine("--profile", "70b", "--time-scale", "20") as e:
            _, a = e.chat("w" * 40000, 101)  # 10 000 tokens of prefill, then 100 steps of decode
            self.assertEqual(a["usage"]["prompt_tokens"], 10003)
            ttft = e.metric("vllm:time_to_first_token_seconds_sum")
            self.assertAlmostEqual(ttft, 2 * .018 + 10003 * 1.25e-4 + 1.6e-9 * 10003 ** 2 / 2, delta=.01)
            decode = e.metric("vllm:request_decode_time_seconds_sum")
            self.assertAlmostEqual(decode, 100 * (.018 + 4e-5 + 3.5e-8 * 10050), delta=.01)

    def test_big_bodies_at_once_do_not_stall(self):
        with Engine("--profile", "70b", "--time-scale", "1000", "--cache-tokens", "4000000") as e:
            text = ("The quick \\n brown fox \"jumps\" over it. " * 9000)[:350000]
            bodies = [request(chat_body(5, True, "%d %s" % (i, text))) for i in range(24)]
            socks = [e.raw(b"") for _ in bodies]
            for s, b in zip(socks, bodies):
                threading.Thread(target=s.sendall, args=(b,)).start()
            # In the engine's own CPU time: how long it takes by the clock is a matter of the machine.
            worst = 0
            for _ in range(50):
                t = e.cpu()
                self.assertEqual(e.call("GET", "/health")[0], 200)
                worst = max(worst, e.cpu() - t)
            for s in socks:
                self.assertIn(b"[DONE]", read_until(s, b"[DONE]"))
                s.close()
            self.assertLess(worst, 1e9)

    def test_reset_empties_the_cache(self):
        with Engine("--time-scale", "100") as e:
            e.chat("k" * 500, 1)
            self.assertGreater(e.metric("slipstream_engine_blocks_cached"), 0)
            self.assertEqual(e.call("POST", "/reset")[0], 200)
            self.assertEqual(e.metric("slipstream_engine_blocks_cached"), 0)
            self.assertEqual(e.metric("vllm:prompt_tokens_total"), 0)

    def test_null_profile_answers_at_once_and_paces_streams(self):
        with Engine("--profile", "null", "--pace-ms", "5") as e:
            self.assertEqual(e.chat("x", 50)[1]["usage"]["completion_tokens"], 50)
            _, data, _ = e.call("POST", "/v1/chat/completions", chat_body(10, True))
            text = "".join(json.loads(x)["choices"][0]["delta"].get("content", "") for x in events(data)[:-1])
            self.assertEqual(len(text), 40)
            s = e.raw(request(chat_body(100000, True)))
            read_until(s, b"data: ")
            s.close()
            e.wait_metric("vllm:num_requests_running", 0)

    def test_stream_interval_bundles_tokens(self):
        with Engine("--stream-interval", "4", "--time-scale", "1") as e:
            _, data, _ = e.call("POST", "/v1/chat/completions", chat_body(10, True))
            sizes = [len(json.loads(x)["choices"][0]["delta"].get("content", "")) for x in events(data)[:-1]]
            sizes = [n // 4 for n in sizes if n]
            self.assertEqual((sizes[0], sum(sizes)), (1, 10))
            self.assertTrue(all(n >= 4 for n in sizes[1:-1]), sizes)

    def test_bad_arguments_and_a_taken_port(self):
        with Engine() as e:
            for args, code in ((["--profile", "9b"], 64), (["--cache-tokens", "-1"], 64), (["--fault", "x"], 64),
                               (["--bogus"], 64), (["--listen", "127.0.0.1:%d" % e.port], 1), (["--help"], 0)):
                p = subprocess.run([ENGINE, *args], capture_output=True, timeout=10)
                self.assertEqual(p.returncode, code, args)


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.e = Engine("--profile", "8b", "--time-scale", "2")

    @classmethod
    def tearDownClass(cls):
        cls.e.__exit__()

    def tearDown(self):
        self.e.fault(mode="none")
        self.assertEqual(self.e.chat("alive")[0], 200)  # whatever it did, it still serves

    def send(self, stream=False, tokens=30):
        return self.e.raw(request(chat_body(tokens, stream)))

    def hit(self, stream=False, tokens=30):
        return read_all(self.send(stream, tokens))

    def test_only_generation_is_hit_unless_told_otherwise(self):
        self.e.fault(mode="error", status=503)
        self.assertEqual(self.e.call("GET", "/health")[0], 200)
        self.assertEqual(self.e.chat("x")[0], 503)
        self.e.fault(mode="error", status=503, scope="all")
        self.assertEqual(self.e.call("GET", "/health")[0], 503)
        self.assertEqual(self.e.call("GET", "/health", control=True)[0], 200)

    def test_count_is_used_up(self):
        self.e.fault(mode="error", count=2)
        self.assertEqual([self.e.chat("x")[0] for _ in range(3)], [500, 500, 200])
        _, data, _ = self.e.call("GET", "/fault")
        self.assertEqual(json.loads(data)["mode"], "none")

    def test_refuse(self):
        self.e.fault(mode="refuse")
        with self.assertRaises(ConnectionRefusedError):
            self.e.raw(b"")

    def test_refuse_for_a_while(self):
        self.e.fault(mode="refuse", delay_ms=50)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                self.e.raw(b"").close()
                return
            except ConnectionRefusedError:
                pass
        self.fail("still refusing")

    def test_hang_and_then_the_client_leaves(self):
        self.e.fault(mode="hang")
        s = self.send()
        s.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            s.recv(1)
        s.close()

    def test_slow(self):
        self.e.fault(mode="slow", delay_ms=300)
        t = time.monotonic()
        self.assertEqual(self.e.chat("x")[0], 200)
        self.assertGreater(time.monotonic() - t, 0.25)

    def test_reset_before_and_in_the_middle(self):
        self.e.fault(mode="reset")
        self.assertEqual(self.hit(), (b"", None))
        self.e.fault(mode="reset", after_events=3)
        data, clean = self.hit(True, 5000)
        self.assertNotIn(b"[DONE]", data)
        self.assertIsNone(clean)

    def test_truncate_ends_between_chunks(self):
        self.e.fault(mode="truncate", after_events=3)
        data, clean = self.hit(True)
        self.assertTrue(clean and data.endswith(b"\n\n\r\n"))
        self.assertNotIn(b"0\r\n\r\n", data)
        self.assertEqual(data.count(b"data: {"), 4)  # the first chunk has the role and a token
        data, clean = self.hit(False)
        head, body = data.split(b"\r\n\r\n")
        self.assertEqual(len(body), int(re.search(rb"content-length: (\d+)", head)[1]) // 2)

    def test_stall(self):
        self.e.fault(mode="stall", after_events=2)
        s = self.send(True)
        data = read_until(s, b"data: ")
        s.settimeout(0.3)
        try:
            while True:
                more = s.recv(65536)
                self.assertTrue(more)
                data += more
        except TimeoutError:
            pass
        self.assertNotIn(b"finish_reason\":\"length", data)
        s.close()

    def test_stream_error(self):
        self.e.fault(mode="stream_error", after_events=2, count=1)
        _, data, _ = self.e.call("POST", "/v1/chat/completions", chat_body(30, True))
        self.assertEqual(json.loads(events(data)[-2])["error"]["code"], 500)
        self.assertEqual(events(data)[-1], "[DONE]")

    def test_garbage(self):
        self.e.fault(mode="garbage")
        data, _ = self.hit()
        self.assertFalse(data.startswith(b"HTTP/"))

    def test_bad_framing(self):
        for mode, marks in (("bad_te", [b"transfer-encoding: xchunked"]),
                            ("te_cl", [b"transfer-encoding: chunked", b"content-length:"]),
                            ("dup_cl", [b"content-length: 3\r\n"])):
            for stream in False, True:
                self.e.fault(mode=mode, count=1)
                s = self.send(stream)
                head = read_until(s, b"\r\n\r\n").split(b"\r\n\r\n")[0] + b"\r\n"
                for m in marks:
                    self.assertIn(m, head)
                if mode == "dup_cl":
                    self.assertEqual(head.count(b"content-length"), 2)
                s.close()

    def test_early_answers_before_the_body(self):
        self.e.fault(mode="early")
        s = self.e.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        data, clean = read_all(s)
        self.assertTrue(clean and data.startswith(b"HTTP/1.1 413"))

    def test_stale_closes_a_reused_connection_unread(self):
        self.e.fault(mode="stale")
        s = self.e.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        read_until(s, b"\r\n\r\n")
        s.sendall(request(chat_body(1)))
        self.assertEqual(read_all(s)[0], b"")
        self.assertEqual(self.e.chat("x")[0], 200)  # a fresh one is fine

    def test_close_idle(self):
        self.e.fault(mode="close_idle")
        data, clean = self.hit()
        self.assertIn(b"200 OK", data)
        self.assertNotIn(b"connection: close", data)
        self.assertTrue(clean)

    def test_dribble(self):
        self.e.fault(mode="dribble", count=1)
        self.assertEqual(self.e.chat("x", 3)[1]["usage"]["completion_tokens"], 3)

    def test_unknown_fault_is_refused(self):
        self.assertEqual(self.e.call("POST", "/fault", dict(mode="nonsense"))[0], 400)
        self.assertEqual(self.e.call("POST", "/fault", dict(mode="slow", delay=5))[0], 400)

    def test_die_exits_with_nine(self):
        with Engine("--time-scale", "100", "--fault", "die:after_events=2") as e:
            data, _ = read_all(e.raw(request(chat_body(500, True))))
            self.assertEqual(e.proc.wait(10), 9)
            self.assertNotIn(b"[DONE]", data)


if __name__ == "__main__":
    ENGINE = sys.argv.pop(1)
    unittest.main()
