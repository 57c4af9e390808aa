#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
Two agents of one workflow with the openai package: a planner streams a plan and hands it over, a
writer waits for it and continues. Both read the same briefing, so both go to the engine that has it.

    pip install openai
    BASE_URL=http://127.0.0.1:8080 python3 openai_python.py
"""
import json
import os
import sys
import urllib.request
import uuid

from openai import OpenAI

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8080")
WORKFLOW = f"trip-{uuid.uuid4().hex[:8]}"
BRIEFING = {"role": "system", "content": "We plan a trip to the moon. Be brief. " * 40}


def agent(name):
    return OpenAI(base_url=f"{BASE_URL}/v1", api_key=os.environ.get("API_KEY", "none"),
                  default_headers={"X-Workflow-ID": WORKFLOW, "X-Agent-ID": name})


def call(path, body=None):
    request = urllib.request.Request(f"{BASE_URL}/v1/workflows/{WORKFLOW}{path}",
                                     data=json.dumps(body).encode() if body else None,
                                     headers={"Authorization": f"Bearer {os.environ.get('API_KEY', 'none')}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


planner, writer = agent("planner"), agent("writer")
model = os.environ.get("MODEL") or planner.models.list().data[0].id

plan = ""
for chunk in planner.chat.completions.create(model=model, stream=True, max_tokens=32,
                                             messages=[BRIEFING, {"role": "user", "content": "Make a plan."}]):
    if chunk.choices and chunk.choices[0].delta.content:
        plan += chunk.choices[0].delta.content
print("planner:", plan, file=sys.stderr)
call("/messages", {"source_agent": "planner", "target_agent": "writer", "message_type": "plan", "payload": {"plan": plan}})

message = call("/agents/writer/messages?wait=10")["messages"][0]
answer = writer.chat.completions.create(model=model, max_tokens=32, messages=[
    BRIEFING, {"role": "user", "content": f"Write the first chapter of: {message['payload']['plan']}"}])
print("writer:", answer.choices[0].message.content, file=sys.stderr)

print(json.dumps(call("/status")))
