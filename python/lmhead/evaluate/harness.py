"""The model `lmhead` of lm-evaluation-harness: its tokenisation and requests, our scorer.

    import lmhead.evaluate.harness                       # registers the model
    lm_eval.simple_evaluate("lmhead", "pretrained=FOLDER", tasks=["arc_easy"])

Importing needs the extra `evaluate`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models import huggingface
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from lmhead.command import RequestError
from lmhead.evaluate.cache import AnswerCache, generation_key, request_key
from lmhead.evaluate.scorer import Score, Scorer
from lmhead.evaluate.tokenizer import open_tokenizer

# Between two looks at the keyboard and the cache: about four passes of the scorer, for which it reads weights once.
TOKENS_AT_ONCE = 16384
REQUESTS_AT_ONCE = 1024
Request = tuple[Sequence[int], Sequence[int]]  # ids of a context, and of what is scored after it
FIRST_TOKENS = 16  # generated before the first look for a stop sequence; then as many again


def said_in_a_line(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `call` returns; what native code says of a request is a line already, or a device's failure, and becomes a RequestError."""
    try:
        return call(*arguments, **options)
    except RuntimeError as error:
        said = None
        if isinstance(error, torch.OutOfMemoryError | NotImplementedError):
            said = torch.ops.lmhead._device_failure(isinstance(error, torch.OutOfMemoryError), str(error))
        raise RequestError(re.sub(r"^\[(evaluate|device)\] ", "", said or str(error).splitlines()[0])) from None


def named_by_the_harness(options: dict[str, Any] | None) -> dict[str, Any]:
    """What the harness adds to a user's arguments, without its device where that is not here: its command names cuda:0 of itself,
    and its own models then compute on the CPU."""
    named = dict(options or {})
    if str(named.get("device", "")).startswith("cuda") and not torch.cuda.is_available():
        del named["device"]
    return named


def in_parts(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    """Requests a pass or so at a time; those of one context, which the scorer runs once, stay together."""
    first = tokens = 0
    for place, (context, continuation) in enumerate(requests):
        is_full = tokens >= TOKENS_AT_ONCE or place - first >= REQUESTS_AT_ONCE
        if is_full and context != requests[place - 1][0]:
            yield requests[first:place]
            first, tokens = place, 0
        shares = place > first and context == requests[place - 1][0]
        tokens += len(continuation) + (0 if shares else len(context))
    if first < len(requests):
        yield requests[first:]


class HarnessTokens(TemplateLM):
    """What a text is in ids: the harness's own business to the last special case."""

    tok_encode = huggingface.HFLM.tok_encode
    tok_decode = huggingface.HFLM.tok_decode
    eot_token_id = huggingface.HFLM.eot_token_id
    apply_chat_template = huggingface.HFLM.apply_chat_template
    tokenizer_name = huggingface.HFLM.tokenizer_name

    def __init__(self, tokenizer: Any, add_bos_token: bool | None = None, prefix_token_id: int | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.add_bos_token = add_bos_token
        self.custom_prefix_token_id = prefix_token_id
        self.chat_template_args: dict[str, Any] = {}

    @property
    def prefix_token_id(self) -> int:
        prefix = huggingface.HFLM.prefix_token_id.fget(self)
        if prefix is None:
            raise RequestError("the tokenizer must have a first or last token for an empty context, got neither: name one, "
                               "--prefix-token-id here, prefix_token_id in the harness")
        return prefix


@register_model("lmhead")
class LmheadLM(HarnessTokens):
    """Any model that lmhead reads, as the harness asks for one.

    Args:
        pretrained: a folder in the Hugging Face layout, a run's or a checkpoint's.
        tokenizer: a name or folder for transformers in place of the model's own.
        max_length: tokens that the model sees at most.
        dtype: "float32" or "bfloat16".
        add_bos_token, prefix_token_id: as for the harness's model `hf`.
        batch_size, max_batch_size: for the harness's sake; passes are filled by tokens.
        device: where the model computes, as for Scorer; None: on the CPU.
        keep_weights: as for Scorer; without, memory holds one block of a pretrained model at a time.
        cache: answers that are known already, and where those that are computed go.
        progress: told how many requests are done, of how many, in place of the harness's bars.
    """

    def __init__(
        self,
        pretrained: str | os.PathLike[str],
        tokenizer: str | None = None,
        max_length: int | None = None,
        dtype: str = "float32",
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        keep_weights: bool = False,
        cache: AnswerCache | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.scorer = said_in_a_line(Scorer, pretrained, max_length=max_length, device=device or "cpu",
                                     keep_weights=keep_weights, precision="float32" if dtype == "auto" else dtype)
        if prefix_token_id is not None and not 0 <= prefix_token_id < self.scorer.vocab_size:
            raise RequestError(f"prefix_token_id must be at least 0 and below {self.scorer.vocab_size}, got {prefix_token_id}")
        if tokenizer is None:
            opened = open_tokenizer(self.scorer.description, self.scorer.description["name"])
        else:
            import transformers

            opened = transformers.AutoTokenizer.from_pretrained(tokenizer)
        super().__init__(opened, add_bos_token, prefix_token_id)
        self.cache = AnswerCache() if cache is None else cache
        self.requests = self.cut = 0  # scored so far, and of them those that lost their first tokens
        self.progress = progress

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> LmheadLM:
        return super().create_from_arg_string(arg_string, named_by_the_harness(additional_config))

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> LmheadLM:
        return super().create_from_arg_obj(arg_dict, named_by_the_harness(additional_config))

    @property
    def max_length(self) -> int:
        return self.scorer.max_length

    @property
    def max_gen_toks(self) -> int:
        return 256

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or self.progress is not None)

    def score(self, requests: Sequence[Request], quiet: bool) -> Iterable[Score]:
        """Scores in order; what the cache has is not run again, and what is run goes there."""
        done = 0
        with tqdm(total=len(requests), disable=quiet, desc="Scoring") as bar:
            for part in in_parts(requests):
                keys = [request_key(*request) for request in part]
                fresh = {key: request for key, request in zip(keys, part, strict=True) if key not in self.cache}
                for key, score in zip(fresh, said_in_a_line(self.scorer.score, fresh.values()), strict=True):
                    self.cache[key] = (score.log_probability, score.is_greedy, score.tokens)
                self.cache.flush()
                for key in keys:
                    log_probability, is_greedy, tokens = self.cache[key]
                    yield Score(log_probability, is_greedy, tokens)
                    bar.update()
                done += len(part)
                if self.progress:
                    self.progress(done, len(requests))

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        for strings, context, continuation in requests:
            if not context or not continuation:
                raise RequestError(f"a continuation must add a token to its context, got {strings!r} whose tokens merge")
            if len(continuation) > self.max_length:
                raise RequestError(f"a continuation must be no longer than the model's {self.max_length} tokens, got "
                                   f"{len(continuation)} in {strings!r}")
        self.requests += len(requests)
        self.cut += sum(len(context) + len(continuation) - 1 > self.max_length for _, context, continuation in requests)
        answers = []
        scores = self.score([(context, continuation) for _, context, continuation in requests], disable_tqdm)
        for (strings, _context, _continuation), score in zip(requests, scores, strict=True):
            answers.append((score.log_probability, score.is_greedy))
            if strings is not None:
                self.cache_hook.add_partial("loglikelihood", strings, answers[-1])
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        windows: list[tuple[None, list[int], list[int]]] = []
        counts = []
        for (string,) in (request.args for request in requests):
            own = [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(string),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            windows += [(None, context, continuation) for context, continuation in own]
            counts.append(len(own))
        scores = iter(self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm))
        totals = []
        for request, count in zip(requests, counts, strict=True):
            totals.append(sum(next(scores)[0] for _ in range(count)))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        texts: list[str] = []
        quiet = disable_tqdm or self.progress is not None
        for context, gen_kwargs in tqdm([request.args for request in requests], disable=quiet, desc="Generating"):
            key = generation_key(context, gen_kwargs)
            if key not in self.cache:
                self.cache[key] = (self._generate(context, dict(gen_kwargs)),)
                self.cache.flush()
            (text,) = self.cache[key]
            texts.append(text)
            self.cache_hook.add_partial("generate_until", (context, gen_kwargs), text)
            if self.progress:
                self.progress(len(texts), len(requests))
        return texts

    def _generate(self, context: str, gen_kwargs: dict[str, Any]) -> str:
        options = normalize_gen_kwargs(gen_kwargs, self.max_gen_toks)
        end = self.eot_token_id
        eos = None if end is None else self.tok_decode([end], skip_special_tokens=False)
        until = handle_stop_sequences(options.pop("until", None), eos=eos)
        limit = options.pop("max_gen_toks")
        if limit >= self.max_length:
            raise RequestError(f"max_gen_toks must be below the model's {self.max_length} tokens, got {limit}")
        sampled = options.get("do_sample", False)
        prompt = self.tok_encode(context, left_truncate_len=self.max_length - limit)
        tokens: list[int] = []
        step = FIRST_TOKENS
        while True:
            fresh = said_in_a_line(
                self.scorer.generate,
                [*prompt, *tokens],
                max_new_tokens=min(step, limit - len(tokens)),
                end_tokens=[] if end is None else [end],
                temperature=float(options.get("temperature", 1.0)) if sampled else 0.0,
                top_k=int(options.get("top_k") or 0) if sampled else 0,
                top_p=float(options.get("top_p") or 1.0) if sampled else 1.0,
                seed=len(tokens),
            )
            tokens += fresh
            text = self.tok_decode(tokens)
            ended = not fresh or len(tokens) >= limit or tokens[-1] == end
            if ended or any(term in text for term in until if term):
                return postprocess_generated_text(text, stop=until, think_end_token=None)
            step = len(tokens)

    def get_model_info(self) -> dict[str, Any]:
        return dict(self.scorer.description)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
