"""Programs that others wrote for OpenAI's API, unmodified, against `cart serve`.

Usage: check_clients.py CART MODEL

langchain-openai (chat, stream, batch, structured output, log-probabilities, embeddings), instructor (a pydantic model out of a chat, by JSON schema), and the
command line program `llm` (a prompt, a conversation, a schema, its log). Tools are refused, as MODEL's template (SmolLM2's) knows none. Needs those from PyPI;
`llm` is called as a program.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import instructor
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import BadRequestError, OpenAI
from pydantic import BaseModel, ConfigDict, Field

CART, MODEL = sys.argv[1:]


class Person(BaseModel):
    """A person."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return "rain"


def langchain(url):
    chat = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="model", temperature=0, max_tokens=24)
    asked = [SystemMessage("Be brief."), HumanMessage("What is the capital of France?")]
    whole = chat.invoke(asked)
    assert "Paris" in whole.content and whole.usage_metadata["output_tokens"] > 0, whole
    assert "".join(part.content for part in chat.stream(asked)) == whole.content
    assert [one.content for one in chat.batch([asked, asked])] == [whole.content] * 2
    again = chat.invoke([*asked, AIMessage(whole.content), HumanMessage("And of Italy?")])
    assert again.content
    try:
        chat.bind_tools([weather], tool_choice="weather").invoke("What is the weather in Oslo?")
        raise SystemExit("tools were taken, of which this model's template knows nothing")
    except BadRequestError as error:
        assert error.code == "unsupported_parameter", error
    person = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="model", temperature=0, max_tokens=100).with_structured_output(Person, method="json_schema")
    assert isinstance(person.invoke("Anna is 31 years old."), Person)
    logged = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="model", max_tokens=4, logprobs=True, top_logprobs=3).invoke("Hello")
    assert len(logged.response_metadata["logprobs"]["content"][0]["top_logprobs"]) == 3
    vectors = OpenAIEmbeddings(base_url=f"{url}/v1", api_key="none", model="model", check_embedding_ctx_length=False).embed_documents(["a red boat", "a blue boat", "the law of contracts"])
    near = lambda a, b: sum(x * y for x, y in zip(vectors[a], vectors[b]))
    assert near(0, 1) > near(0, 2)
    return "chat, stream, batch, conversation, structured output, log-probabilities, embeddings"


def instructed(url):
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    made = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA).chat.completions.create(
        model="model", response_model=Person, max_tokens=100, temperature=0, max_retries=0, messages=[{"role": "user", "content": "Anna is 31 years old."}])
    assert isinstance(made, Person), made
    return "a pydantic model by JSON schema"


def program(url, folder):
    home = folder / "llm"
    home.mkdir()
    model = {"model_id": "cart", "model_name": "model", "api_base": f"{url}/v1", "can_stream": True, "supports_schema": True}
    (home / "extra-openai-models.yaml").write_text(json.dumps([model]))
    (home / "keys.json").write_text(json.dumps({"openai": "none"}))
    call = pathlib.Path(sys.executable).with_name("llm")

    def llm(*words):
        done = subprocess.run([call, *words], capture_output=True, text=True, env={**os.environ, "LLM_USER_PATH": str(home)}, timeout=120)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    said = llm("-m", "cart", "-s", "Be brief.", "-o", "max_tokens", "24", "-o", "temperature", "0", "What is the capital of France?")
    assert "Paris" in said, said
    assert llm("-c", "-o", "max_tokens", "8", "And of Italy?").strip()
    made = llm("-m", "cart", "-o", "max_tokens", "100", "--schema", json.dumps(Person.model_json_schema()), "Invent a person")
    assert set(json.loads(made)) == {"name", "age"}, made
    assert len(json.loads(llm("logs", "--json", "-n", "0"))) == 3
    return "a prompt, a conversation, a schema, its log"


def main():
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        cart = [CART, "--store", str(scratch / "store")]
        subprocess.run([*cart, "pack", MODEL, "-t", "model", "-q"], check=True, stdout=subprocess.DEVNULL)
        server = subprocess.Popen([*cart, "serve", "model", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        try:
            url = re.search(r"http://[0-9.:]+", server.stdout.readline()).group()
            print("langchain-openai:", langchain(url))
            print("instructor:", instructed(url))
            print("llm:", program(url, scratch))
        finally:
            server.terminate()
            server.wait(60)


main()
