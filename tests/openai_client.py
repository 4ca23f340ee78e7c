"""What OpenAI's own Python client sees of `ailo-node serve --require-api-key`: about fifty checks, each a sentence.

usage: AILO_API_KEY=KEY AILO_API_KEY_FEW=KEY tests/openai_client.py http://127.0.0.1:PORT/v1

The first key may send many requests, the second one a minute.

The model is a small one with made-up weights (tests/openai.rs), so what it says makes no sense, but each claim can fail.
"""

import os
import sys
import threading

import openai



def asks_with(key):
    return openai.OpenAI(base_url=sys.argv[1], api_key=key, max_retries=0)


client = asks_with(os.environ["AILO_API_KEY"])
checks = 0


def check(claim, holds):
    global checks
    checks += 1
    if not holds:
        sys.exit(f"FAILED: {claim}")


def refused(claim, kind, says, call):
    try:
        call()
    except kind as error:
        check(f"{claim}: {error}", says in str(error))
    else:
        check(f"{claim} (nothing was refused)", False)


models = client.models.list().data
model = models[0].id
check("one model is listed", len(models) == 1)
check("a model can be asked for by its name", client.models.retrieve(model).id == model)
refused("an unknown model is not found", openai.NotFoundError, "not served", lambda: client.models.retrieve("x"))


def complete(prompt="hello world", **more):
    return client.completions.create(model=model, prompt=prompt, **{"max_tokens": 16, "temperature": 0, **more})


def chat(content="hello", **more):
    messages = more.pop("messages", [{"role": "user", "content": content}])
    return client.chat.completions.create(model=model, messages=messages, **{"max_tokens": 16, "temperature": 0, **more})


done = complete()
text = done.choices[0].text
check("a completion has an id", done.id.startswith("cmpl-") and done.object == "text_completion")
check("it names the model", done.model == model)
check("it has a fingerprint", bool(done.system_fingerprint))
check("it has a text", len(text) > 0)
check("it ends by its length", done.choices[0].finish_reason == "length")
check("tokens are counted", done.usage.completion_tokens == 16 and done.usage.prompt_tokens > 0)
check("the sum of tokens is right", done.usage.total_tokens == 16 + done.usage.prompt_tokens)
check("without randomness it repeats itself", complete().choices[0].text == text)

pieces = list(complete(stream=True))
check("pieces make the whole", "".join(piece.choices[0].text for piece in pieces) == text)
check("the last piece says why it ended", pieces[-1].choices[0].finish_reason == "length")
check("pieces share their id", len({piece.id for piece in pieces}) == 1)
pieces = list(complete(stream=True, stream_options={"include_usage": True}))
check("the last piece has the usage if asked for", pieces[-1].usage.completion_tokens == 16 and not pieces[-1].choices)
check("no other piece has", all(piece.usage is None for piece in pieces[:-1]))

check("a seed repeats", complete(seed=3, temperature=1).choices[0].text == complete(seed=3, temperature=1).choices[0].text)
check("seeds differ", complete(seed=3, temperature=1).choices[0].text != complete(seed=4, temperature=1).choices[0].text)
several = complete(n=3, temperature=1.5, seed=1)
check("n gives so many", [choice.index for choice in several.choices] == [0, 1, 2])
check("they differ", len({choice.text for choice in several.choices}) == 3)
check("all their tokens are counted", several.usage.completion_tokens == 48)
batch = complete(prompt=["hello world", "other"])
check("two prompts have two texts", len(batch.choices) == 2 and batch.choices[0].text == text)
tokens = complete(prompt=[[1, 2], [3]], max_tokens=4)
check("two prompts of tokens, too", len(tokens.choices) == 2 and tokens.usage.prompt_tokens == 3)
check("echo begins with the prompt", complete(echo=True).choices[0].text == "hello world" + text)
check("the best of the candidates is the text without randomness", complete(temperature=2, extra_body={"top_k": 1}).choices[0].text == text)
check("so it is in the smallest nucleus", complete(temperature=2, top_p=0.0).choices[0].text == text)
check("and above the highest bar", complete(temperature=2, extra_body={"min_p": 1.0}).choices[0].text == text)

stop = text[4:7]
stopped = complete(stop=stop)
check("a stop text ends it before itself", stopped.choices[0].text == text[: text.find(stop)])
check("that is a stop", stopped.choices[0].finish_reason == "stop")
streamed = list(complete(stop=[stop, "never"], stream=True))
check("pieces never show a stop text", "".join(p.choices[0].text for p in streamed) == stopped.choices[0].text)

likely = complete(logprobs=2).choices[0].logprobs
check("each token has its probability", len(likely.tokens) == len(likely.token_logprobs) == 16)
check("the likeliest are listed", all(len(top) == 2 for top in likely.top_logprobs))
check("the chosen one is the likeliest", all(max(t.values()) == p for t, p in zip(likely.top_logprobs, likely.token_logprobs)))
check("offsets lead through the text", likely.text_offset[0] == 0 and likely.text_offset == sorted(likely.text_offset))
free = complete(max_tokens=40)
punished = complete(max_tokens=40, frequency_penalty=2.0, presence_penalty=2.0)
check("penalties change what is repeated", free.choices[0].text != punished.choices[0].text)
check("a bias decides", complete(logit_bias={"57": 100}, max_tokens=3, logprobs=0).choices[0].logprobs.tokens == ["Z"] * 3)

said = chat()
check("an answer is the assistant's", said.choices[0].message.role == "assistant" and said.object == "chat.completion")
check("it counts its tokens", said.usage.completion_tokens == 16)
pieces = list(chat(stream=True))
check("its pieces make the whole", "".join(p.choices[0].delta.content or "" for p in pieces) == said.choices[0].message.content)
check("the first says who speaks", pieces[0].choices[0].delta.role == "assistant")
check("the system's word counts", chat(messages=[{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}])
      .choices[0].message.content != said.choices[0].message.content)
likely = chat(logprobs=True, top_logprobs=4).choices[0].logprobs.content
check("an answer's tokens have their probabilities", len(likely) == 16 and all(len(t.top_logprobs) == 4 for t in likely))
# What is no character at all is marked as such, once or several times.
spelled = bytes(b for t in likely for b in t.bytes).decode(errors="replace").replace("\ufffd", "")
check("bytes of tokens spell the answer", spelled == said.choices[0].message.content.replace("\ufffd", ""))
check("max_completion_tokens is understood", client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": "a"}], max_completion_tokens=3, temperature=0).usage.completion_tokens == 3)

refused("tools are refused", openai.BadRequestError, "'tools' is not supported",
        lambda: chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]))
refused("a hot temperature is refused", openai.BadRequestError, "from 0 to 2", lambda: complete(temperature=9))
refused("an unknown field is refused", openai.BadRequestError, "'beam'", lambda: complete(extra_body={"beam": 4}))
refused("a long text is refused", openai.BadRequestError, "tokens in all", lambda: complete(max_tokens=100_000))
refused("a number is no stop text", openai.BadRequestError, "a text or a list of texts", lambda: complete(stop=7))
refused("nobody says nothing", openai.BadRequestError, "missing or null", lambda: chat(content=None))
refused("a conversation is given nothing that it does not ask for", openai.BadRequestError, "ask for no 'enable_thinking'",
        lambda: chat(extra_body={"chat_template_kwargs": {"enable_thinking": False}}))
refused("a name that nobody would see is refused", openai.BadRequestError, "show no names",
        lambda: chat(messages=[{"role": "user", "name": "ann", "content": "hello"}]))
check("what a text may cost is a field of its own", complete(extra_body={"max_alc": "0.25"}).choices[0].text == text)
refused("no messages are refused", openai.BadRequestError, "messages", lambda: chat(messages=[]))

refused("a wrong key is refused", openai.AuthenticationError, "API key", lambda: asks_with("none").models.list())
raw = client.models.with_raw_response.list().headers
check("limits are told", raw["x-ratelimit-limit-requests"] == "600" and int(raw["x-ratelimit-remaining-requests"]) < 600)
check("those of tokens, too", 0 < int(raw["x-ratelimit-remaining-tokens"]) < int(raw["x-ratelimit-limit-tokens"]))
few = asks_with(os.environ["AILO_API_KEY_FEW"])
few.models.list()
try:
    few.models.list()
    check("the second request in a minute is refused", False)
except openai.RateLimitError as error:
    check("it says how long to wait", 1 <= int(error.response.headers["retry-after"]) <= 60)
    check("it is known by its code", error.code == "rate_limit_exceeded")
refused("more texts than a key may have are refused", openai.BadRequestError, "texts at once",
        lambda: complete(prompt=["a", "b"], n=16))

stream = complete(stream=True, max_tokens=200)
next(iter(stream))
stream.close()
check("whoever leaves a stream leaves the server working", complete().choices[0].text == text)

texts = []
threads = [threading.Thread(target=lambda: texts.append(complete().choices[0].text)) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
check("sixteen at once get what one gets alone", texts == [text] * 16)

print(f"{checks} checks hold")
