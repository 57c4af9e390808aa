#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
Two agents of one workflow with LangChain, side by side: the writer waits at its mailbox until the
planner has sent the plan.

    pip install langchain-openai
    BASE_URL=http://127.0.0.1:8080 python3 langchain_agents.py
"""
import asyncio
import json
import os
import sys
import urllib.request
import uuid

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8080")
API_KEY = os.environ.get("API_KEY", "none")
WORKFLOW = f"trip-{uuid.uuid4().hex[:8]}"
BRIEFING = SystemMessage("We plan a trip to the moon. Be brief. " * 40)


def get_json(url, body=None):
    request = urllib.request.Request(url, data=json.dumps(body).encode() if body else None,
                                     headers={"Authorization": f"Bearer {API_KEY}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def call(path, body=None):
    return get_json(f"{BASE_URL}/v1/workflows/{WORKFLOW}{path}", body)


def agent(name, model):
    return ChatOpenAI(base_url=f"{BASE_URL}/v1", api_key=API_KEY, model=model, max_tokens=32,
                      default_headers={"X-Workflow-ID": WORKFLOW, "X-Agent-ID": name})


async def plan(model):
    text = ""
    async for piece in agent("planner", model).astream([BRIEFING, HumanMessage("Make a plan.")]):
        text += piece.content
    await asyncio.to_thread(call, "/messages", {"source_agent": "planner", "target_agent": "writer",
                                                "message_type": "plan", "payload": {"plan": text}})
    print("planner:", text, file=sys.stderr)


async def write(model):
    got = await asyncio.to_thread(call, "/agents/writer/messages?wait=30")
    text = got["messages"][0]["payload"]["plan"]
    answer = await agent("writer", model).ainvoke([BRIEFING, HumanMessage(f"Write the first chapter of: {text}")])
    print("writer:", answer.content, file=sys.stderr)


async def main():
    model = os.environ.get("MODEL") or get_json(f"{BASE_URL}/v1/models")["data"][0]["id"]
    await asyncio.gather(write(model), plan(model))
    print(json.dumps(call("/status")))


asyncio.run(main())
