# SPDX-License-Identifier: Apache-2.0
"""LangChain's OpenAI classes against the gateway."""
import uuid

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from support.wait import secs


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def chat_of(fleet, **kw):
    return ChatOpenAI(**{"base_url": fleet.base_url, "api_key": "sk-test", "model": "sim", "max_retries": 0,
                         "timeout": secs(20), "max_tokens": 8, **kw})


@pytest.fixture(scope="module")
def chat(sim):
    return chat_of(sim)


def test_invoke(chat):
    a = chat.invoke([HumanMessage("hello")])
    assert isinstance(a, AIMessage) and len(a.content) == 32
    assert a.usage_metadata["output_tokens"] == 8
    assert a.response_metadata["model_name"] == "sim"


def test_stream(chat):
    pieces = list(chat.stream("hello"))
    assert len(pieces) > 2
    assert "".join(p.content for p in pieces) == chat.invoke("hello").content


def test_stream_usage(sim):
    whole = None
    for piece in chat_of(sim, stream_usage=True).stream("hello"):
        whole = piece if whole is None else whole + piece
    assert whole.usage_metadata["output_tokens"] == 8


def test_bound_tools(chat):
    a = chat.bind_tools([add], tool_choice="add").invoke("what is 1 + 2?")
    (call,) = a.tool_calls
    assert call["name"] == "add" and set(call["args"]) == {"a", "b"}
    result = add.invoke(call["args"])
    b = chat.bind_tools([add]).invoke([HumanMessage("what is 1 + 2?"), a,
                                       ToolMessage(str(result), tool_call_id=call["id"])])
    assert b.content


def test_streamed_tool_calls(chat):
    whole = None
    for piece in chat.bind_tools([add], tool_choice="add").stream("what is 1 + 2?"):
        whole = piece if whole is None else whole + piece
    assert whole.tool_calls[0]["name"] == "add" and set(whole.tool_calls[0]["args"]) == {"a", "b"}


def test_batch_of_a_workflow(sim):
    w = f"langchain-{uuid.uuid4().hex[:8]}"
    chat = chat_of(sim, extra_body={"workflow_metadata": {"workflow_id": w, "agent_id": "batch"}})
    assert [len(a.content) for a in chat.batch(["a", "b", "c", "d", "e"])] == [32] * 5
    sim.settled(w, 5)


def test_default_headers_name_the_workflow(sim):
    w = f"langchain-{uuid.uuid4().hex[:8]}"
    chat_of(sim, default_headers={"X-Workflow-ID": w, "X-Agent-ID": "lc"}).invoke("hello")
    sim.settled(w, 1)


def test_embeddings(sim):
    e = OpenAIEmbeddings(base_url=sim.base_url, api_key="sk-test", model="sim", check_embedding_ctx_length=False,
                         max_retries=0)
    one, two = e.embed_documents(["one", "two"])
    assert len(one) == len(two) > 0
