# SPDX-License-Identifier: Apache-2.0
"""Keys, the admin listener, and what a reload does to both."""
import signal
import threading

import pytest
from support import raw_engine as re_
from support import rawhttp
from support.errors import check_openai, check_problem
from support.fleet import Fleet
from support.raw_engine import RawEngine
from support.rawhttp import chat
from support.wait import secs, wait_until

PATH = "/v1/chat/completions"


def bearer(key):
    return [("Authorization", f"Bearer {key}")]


def key_file(fleet, name, secret):
    path = fleet.dir / name
    path.write_text(secret + "\n")
    return str(path)


def reload(fleet):
    seen = fleet.workers[0].log().count(" reloaded ")
    fleet.workers[0].signal(signal.SIGHUP)
    wait_until("reloaded", 5, lambda: fleet.workers[0].log().count(" reloaded ") > seen)


def test_reload_takes_keys_away_also_under_load():
    """A key that was taken out of the settings opens nothing any more, whatever runs meanwhile."""
    with RawEngine("raw") as engine:
        f = Fleet(engines=[engine], workers=1, with_mailbox=False)
        f.settings["keys"] = [{"file": key_file(f, "one", "first"), "tenant": "a", "max_requests": 2},
                              {"file": key_file(f, "two", "second"), "tenant": "b"}]
        f.write_config()
        with f:
            engine.script(re_.hang)
            with f.client() as hanging, f.client() as other:
                hanging.request("POST", PATH, chat("raw", "hangs"), bearer("first"))
                engine.wait_request()
                assert f.chat(headers=bearer("first")).status == 200
                f.settings["keys"] = [f.settings["keys"][1], {"file": key_file(f, "three", "third")}]
                f.write_config()
                reload(f)
                check_openai(f.chat(headers=bearer("first")), "invalid_api_key", status=401)
                assert f.chat(headers=bearer("second")).status == 200
                assert f.chat(headers=bearer("third")).status == 200
                other.close()
            assert f.chat(headers=bearer("third")).status == 200


def test_limit_of_a_key_counts_over_a_reload():
    with RawEngine("raw") as engine:
        f = Fleet(engines=[engine], workers=1, with_mailbox=False)
        f.settings["keys"] = [{"file": key_file(f, "two", "second")},
                              {"file": key_file(f, "one", "first"), "max_requests": 1}]
        f.write_config()
        with f:
            engine.script(re_.hang)
            with f.client() as hanging:
                hanging.request("POST", PATH, chat("raw", "hangs"), bearer("first"))
                engine.wait_request()
                check_openai(f.chat(headers=bearer("first")), "too_many_requests", status=429)
                del f.settings["keys"][0]
                f.write_config()
                reload(f)
                check_openai(f.chat(headers=bearer("first")), "too_many_requests", status=429)
            wait_until("its place is free again", 5, lambda: f.chat(headers=bearer("first")).status == 200)


def admin(f, method, path, headers=(), host="localhost"):
    return rawhttp.fetch(f.admin_port, method, path, None, headers, host=host)


@pytest.mark.asan_ok
def test_changes_on_the_admin_listener_need_the_admin_key():
    with RawEngine("raw") as engine:
        f = Fleet(engines=[engine], workers=1, with_mailbox=False)
        f.settings["gateway"]["admin_key_file"] = key_file(f, "admin", "boss")
        f.settings["keys"] = [{"file": key_file(f, "one", "first")}]
        f.write_config()
        with f:
            change = ("DELETE", "/v1/workflows/w")
            check_problem(admin(f, *change), "invalid_api_key", 401)
            check_problem(admin(f, *change, bearer("first")), "invalid_api_key", 401)
            check_problem(admin(f, *change, bearer("boss")), "workflow_not_found", 404)
            check_problem(admin(f, *change, bearer("boss"), host="rebound.example"), "permission_denied", 403)
            assert admin(f, "GET", "/v1/workflows", bearer("boss")).status == 200
            assert admin(f, "GET", "/v1/workflows", bearer("first")).status == 200
            check_problem(f.fetch(*change, headers=bearer("boss")), "invalid_api_key", 401)


@pytest.mark.asan_ok
def test_admin_listener_without_an_admin_key_changes_nothing_and_checks_every_host(sim):
    for method, path in (("DELETE", "/v1/workflows/w"), ("POST", "/v1/workflows/w/messages")):
        check_problem(admin(sim, method, path), "permission_denied", 403)
    for path in ("/v1/workflows", "/v1/workflows/w/status", "/metrics", "/config"):
        check_problem(admin(sim, "GET", path, host="rebound.example"), "permission_denied", 403)
