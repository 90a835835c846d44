"""The error sentences of upstreams and their meaning, each with its source.

Owns the meaning of a sentence, for errors without a telling code; `refusal_codes` are read first.
Patterns are for lower-case text without quotations and URLs; the words of codes are appended to it,
so that an unknown code is matched as well.

A source is where to look. Those of OpenRouter, Moonshot, Alibaba, Zhipu, Google, Mistral and xAI
were read in November 2026, as excerpts of stored copies; the others are from general knowledge and
were not checked. "seen" is a sentence that users reported, not one that the vendor documents.
"""

import re
from typing import Final, NamedTuple

from worker.providers.refusal_codes import RefusalReason


class Sentence(NamedTuple):
    """A sentence of one reason, as vendors write it."""

    reason: RefusalReason
    source: str
    pattern: str


# This request is too expensive for the remaining credit; smaller ones are still accepted.
_UNAFFORDABLE: Final = (
    Sentence("unaffordable", "OpenRouter, 402 (seen)", r"can only afford|fewer max_tokens"),
    Sentence("unaffordable", "OpenRouter, 402 (seen)", r"prompt tokens? limit exceeded"),
    Sentence(
        "unaffordable",
        "gateways with a check before the call, 402 (seen): Gatewayz",
        r"(insufficient|not enough) (credits?|balance|funds) (for|to cover) (this|the) request"
        r"|(maximum possible|estimated) cost.{0,80}(available|remaining|balance)"
        r"|cost of (this|the) request exceeds|reduce (the )?max_tokens",
    ),
    Sentence(
        "unaffordable",
        "Anthropic, 429 (seen): long context beyond the plan",
        r"(usage credits?|extra usage) (are|is) required for long context",
    ),
)
# Only these are believed of a 429, since rate-limit sentences mention plans and payment, too.
_UNPAID: Final = (
    Sentence("unpaid", "Anthropic, 400 (documented)", r"credit balance is too low"),
    Sentence("unpaid", "Anthropic, 400 (seen)", r"reached your specified (api )?usage limits?"),
    Sentence("unpaid", "OpenAI and followers, 429", r"insufficient[ _]quota|billing (hard )?limit"),
    Sentence(
        "unpaid",
        "OpenAI, 429 (seen)",
        r"(account|billing|subscription) is not active|billing not active"
        r"|(exceeded|reached|hit) (your|the|its) (current |monthly )?(usage|billing) (hard )?limit",
    ),
    Sentence(
        "unpaid",
        "DeepSeek, 402 (documented); Moonshot, Together, Zhipu (seen)",
        r"insufficient (account )?(balance|funds?|credits?)"
        r"|(not enough|no (more|remaining|available)|(have|has) no|out of) (credits?|balance|funds)"
        r"|(balance|credits?|funds?) (is|are|has been|have been|was) (\w+ )?"
        r"(insufficient|exhausted|depleted|used up|not enough|negative|expired|zero)"
        r"|negative (credit )?balance",
    ),
    Sentence(
        "unpaid",
        "xAI, 429 (seen)",
        r"used (all|up) (of )?(your |its |the )?(available |monthly |included |free )?credits?",
    ),
    Sentence(
        "unpaid",
        "xAI, Google, OpenRouter (seen)",
        r"spend(ing)?[ -](limit|cap)|(credit|key) limit (exceeded|reached)",
    ),
    Sentence(
        "unpaid",
        "Google, Together, Fireworks (seen)",
        r"pre-?pa(id|yment) (credits?|balance|quota|plan|amount)[^.]{0,40}"
        r"(depleted|exhausted|used|insufficient|expired)",
    ),
    Sentence(
        "unpaid",
        "LiteLLM, gateways (documented: budgets)",
        r"(exceeded|over|reached) [^.]{0,24}budget|budget (has been |was |is |limit )?"
        r"(exceeded|exhausted|reached)",
    ),
    Sentence(
        "unpaid",
        "Moonshot's Kimi Code, GitHub Copilot, Hugging Face (seen)",
        r"(usage limit|quota) for this billing|premium request (allowance|limit)"
        r"|(monthly|included) (included )?(credits?|quota|allowance)[^.]{0,30}"
        r"(exceeded|exhausted|used|reached)"
        r"|(exceeded|exhausted|used up|reached) (your|the|its) (monthly|included|premium|plan.?s) ",
    ),
    Sentence(
        "unpaid",
        "Alibaba, 400 and 403 (documented)",
        r"account is in good standing|free (allocated )?(quota|tier)[^.]{0,40}"
        r"(exceeded|exhausted|used up)|arrear|overdue",
    ),
    Sentence(
        "unpaid",
        "Google, 403; Fireworks, 412; Cohere, 402 (seen)",
        r"billing (account )?(is |has been |to be )?(not )?(enabled|disabled|required|suspended)"
        r"|enable billing|unpaid invoice|payment (is )?(required|failed|overdue|declined)"
        r"|(purchase|buy|add) (more |additional )?credits to (continue|proceed)"
        r"|suspended (due to|because of|for) [^.]{0,30}(balance|payment|billing|spend|invoice)",
    ),
    Sentence(
        "unpaid", "Zhipu, Alibaba, One API (seen)", "余额不足|欠费|额度不足|额度已用尽|余额为"
    ),
)
# OpenAI means money by this, Google any quota: it is money unless a wait is given as well.
QUOTA: Final = re.compile(r"exceeded (your|the) current quota|plan and billing")
# A 402 that mentions any of these is about money.
MONEY: Final = re.compile(
    r"balance|credit|pay|billing|quota|fund|subscri|\bplan\b|account|spend|budget|membership"
    r"|top.?up|recharge|invoice|allowance|usage limit"
)
_TERMINATED: Final = (
    Sentence(
        "forbidden",
        "OpenAI, Groq, Anthropic, Google (seen): an account, not a request",
        r"access (has been |was |is )?terminated"
        r"|(account|organi[sz]ation|project|team|workspace|subscription|tenant|consumer)\b[^.]{0,60}"
        r"\b(is|has been|have been|was|been) (\w+ )?"
        r"(deactivated|suspended|disabled|terminated|banned|closed|locked|restricted|blocked)"
        r"|(deactivated|suspended|disabled|banned) (account|organi[sz]ation|project)",
    ),
)
_POLICY: Final = (
    Sentence("policy", "DeepSeek, 400 (seen)", r"content exists risk"),
    Sentence("policy", "Moonshot, 400 (documented)", r"considered high risk"),
    Sentence(
        "policy",
        "OpenAI, invalid_prompt; OpenRouter, 403 (documented); Anthropic (seen)",
        r"\bflagged\b|(usage|acceptable use|content|safety|moderation) (policy|policies|guidelines)"
        r"(?! (settings|page|of your account))",
    ),
    Sentence(
        "policy",
        "OpenAI, xAI, Azure, Google, Together (seen)",
        r"violat\w* [^.]{0,80}(policy|policies|guidelines|terms|safety|rules)"
        r"|content[ _]?policy|content[ _]?filter|content (management|filtering) policy",
    ),
    Sentence(
        "policy",
        "OpenAI, images; Google, Mistral, Bedrock (seen)",
        r"safety system|safety (filter|check|reasons?|settings|classifier)|responsible ai"
        r"|blocked by (\w+ )?(guardrail|moderation|safety|content)|guardrail|moderation"
        r"|prompt injection|jailbreak|prohibited[ _]content|output blocked"
        r"|(violent|explicit|sexual|adult|hateful|illegal) content|hate speech|self-harm|nsfw",
    ),
    Sentence(
        "policy",
        "Alibaba, 400 (documented); MiniMax, Zhipu (seen)",
        r"inappropriate content|(un|not )safe (content|prompt|input)|unsafe|sensitive (content|word"
        r"|information)|harmful|data.?inspection|敏感|违规|不安全|内容安全",
    ),
)
_TOO_LONG: Final = (
    Sentence(
        "too long",
        "OpenAI, vLLM, OpenRouter, DeepSeek: maximum context length is N tokens",
        r"context.{0,3}(length|window|size|limit)|max\w* context|context overflow"
        r"|(exceed\w*|larger than|longer than|beyond|outside|overflow\w*) [^.]{0,40}\bcontext",
    ),
    Sentence(
        "too long",
        "Anthropic, 400 (documented)",
        r"(prompt|input|conversation|messages?|request|history)( \w+)? (is|are|was|were) too long",
    ),
    Sentence("too long", "Atlas, vLLM's forks (seen)", r"(prompt|input|inputs) (length )?too long"),
    Sentence(
        "too long", "servers of local models (seen)", r"max_seq_len|max_model_len|n_ctx|num_ctx"
    ),
    Sentence(
        "too long",
        "Google, Copilot, Mistral: the token count of N exceeds M",
        r"token (count|length|limit)[^.]{0,60}(exceed|too l|over|larger)"
        r"|(exceed\w*|over|above) [^.]{0,40}(token limit|tokens? (allowed|limit)|max\w* tokens?\b"
        r"|number of tokens|prompt tokens|input (length|tokens?|token limit))",
    ),
    Sentence(
        "too long", "Moonshot, 400 (documented)", r"exceeded model token limit|token length too"
    ),
    Sentence(
        "too long",
        "Alibaba, 400 (documented)",
        r"range of (input|prompt|total)? ?(length|tokens?) should be"
        r"|input (length|tokens?) (should|must|cannot|can not|may not)",
    ),
    Sentence(
        "too long",
        "Together and text-generation-inference, 422 (documented)",
        r"tokens? ?\+ ?\S*max_new_tokens|inputs?\W{0,3} (must|should) have (less|fewer) than"
        r"|max_new_tokens\W* must be <=",
    ),
    Sentence(
        "too long",
        "xAI, 400 (seen)",
        r"max\w* (prompt|input|sequence|total) (length|size|tokens?)|prompt (length|size) exceed",
    ),
    Sentence(
        "too long",
        "Groq, Cerebras, Mistral (seen)",
        r"(reduce|shorten|trim|truncate) (the|your) ((length|size|number) of )?(the |your )?(\w+ )?"
        r"(message|messages|prompt|input|inputs|conversation|history|request)\b",
    ),
    Sentence("too long", "Bedrock (documented)", r"too long for (the )?(requested )?model"),
    Sentence(
        "too long", "MiniMax, Cohere, LM Studio (seen)", r"too many (input |total |prompt )?tokens"
    ),
    Sentence(
        "too long",
        "Cohere, Fireworks (seen)",
        r"(prompt|input|request)[^.]{0,24} exceeds? [^.]{0,24}\blimit",
    ),
    Sentence(
        "too long",
        "servers of local models and gateways (seen): a number of tokens, or a length, exceeds",
        r"(?<!max[_ ])(?<!completion[_ ])(?<!output[_ ])\btokens?\b[^.]{0,40}"
        r"\b(exceed\w*|(more|greater|larger) than) |length[^.]{0,20}\bexceed"
        r"|\btokens \(\d+\)[^.]* >|length is \d+ while"
        r"|(messages?|prompt|input|conversation) too long",
    ),
    Sentence("too long", "Zhipu, One API (seen)", "超长|上下文|超过最大长度|输入过长|超出最大长度"),
)
# This single request exceeds a limit per minute: waiting does not help.
_TOO_LARGE_EVER: Final = (
    Sentence(
        "too long",
        "OpenAI, 429, and Groq, 413 (seen)",
        r"request too large for|input or output tokens must be reduced|reduce your message size",
    ),
)
# A 413 is about the bytes of a request unless it mentions these.
OF_A_413: Final = re.compile(r"\btokens?\b|\bprompt\b|\bconversation\b|\bmessages\b")
# A sentence about tokens per time is about a rate, not about a length.
RATE: Final = re.compile(
    r"per (minute|min|second|hour|day|month)|\b[tr]pm\b|\b[tr]pd\b|rate.?limit|please wait"
    r"|too many requests|throttl|\bqps\b"
)
_MODEL: Final = (
    Sentence(
        "model",
        "DeepSeek, xAI, Ollama, OpenAI, Together, Mistral (seen)",
        r"model (\S+ )?(does )?not (exist|found|supported|available)|unknown model|no such model"
        r"|invalid model\b|model (\S+ )?(is|has been) (not (found|supported|available)|deprecated"
        r"|decommissioned|retired)|unable to access (the )?(model|non-serverless model)"
        r"|(not have|no|without) access to (the |this )?(requested )?model",
    ),
)
_KEY: Final = (
    Sentence(
        "key",
        "OpenAI, Google, Moonshot, Alibaba, Groq, Bedrock (seen)",
        r"(invalid|incorrect|wrong|expired|revoked|disabled|unknown|missing|malformed|leaked|bad"
        r"|deactivated|deleted|unrecogni[sz]ed)( \w+)? "
        r"((x-api|api|access|auth|authentication|secret|bearer|security)[ _-]?(key|token)"
        r"|credentials?\b)"
        r"|((api|access|auth|secret|bearer|security)[ _-]?(key|token)|credentials?)\b[^.]{0,60}"
        r"\b(invalid|not valid|expired|revoked|disabled|deactivated|leaked|deleted|missing"
        r"|incorrect|not found|not recogni[sz]ed|suspended|inactive|blocked|unauthori[sz]ed)"
        r"|(invalid|failed|missing) (authentication|authori[sz]ation)|authentication failed"
        r"|token (is |has )?expired",
    ),
)
_PLACE: Final = r"(country|region|territory|territories|location|jurisdiction)"
_NO: Final = r"(not|un)[ -]?(currently )?(supported|available|allowed|authori[sz]ed|permitted)"
_FORBIDDEN: Final = (
    Sentence(
        "forbidden",
        "OpenAI, 403 (documented); Google, 400 (seen)",
        rf"{_PLACE}\b[^.]{{0,60}}\b({_NO}|restricted|blocked|prohibited)"
        rf"|\b({_NO}|restricted|blocked|prohibited) [^.]{{0,60}}{_PLACE}|geo.?(block|restrict)"
        r"|ip( address)? [^.]{0,30}(not (authori[sz]ed|allowed|whitelisted)|blocked|restricted)"
        r"|check your network settings",
    ),
    Sentence(
        "forbidden",
        "Google, 403 (seen)",
        r"api has not been used in project|it is disabled|requests to this api [^.]{0,80}blocked",
    ),
)
# Of a 403 only: any mention of the caller's key or account decides.
_PERMISSION: Final = (
    Sentence(
        "forbidden",
        "Anthropic, Bedrock, OpenAI, Azure, Moonshot, Copilot (seen)",
        r"(api[ _-]?key|access key|account|organi[sz]ation|project|workspace|credential|tenant"
        r"|subscription|licen[cs]e)\b[^.]{0,60}\b(not have|not allowed|not authori[sz]ed"
        r"|not permitted|not verified|not active|not enabled|not entitled|lacks?|cannot"
        r"|no access|no permission"
        r"|denied|without|must be verified|unauthori[sz]ed|unverified|forbidden|blocked|rejected)\b"
        r"|(not|un)[ -]?(allowed|authori[sz]ed|entitled|permitted|licensed)\b[^.]{0,60}"
        r"\b(key|account|organi[sz]ation|project|plan|subscription|perform|licensed)\b"
        r"|(insufficient|missing|lacks?|required|not have( the| any)?( required| sufficient)?)"
        r" (permissions?|scopes?|privileges?|entitlements?)(?! to access /)"
        r"|not have access to (the )?(api|service|organi[sz]ation)"
        r"|\b(denied|forbidden|blocked|disabled|available) (for|to|by) (your|this|the) "
        r"(api key|key|account|organi[sz]ation|project|subscription|plan|tenant)"
        r"|(user|account|email|identity) (is )?(not verified|unverified)",
    ),
    Sentence(
        "unpaid", "gateways, 403 (seen)", r"quota (is |has been )?(exhausted|exceeded|used up)"
    ),
    Sentence(
        "unpaid",
        "gateways, 403 (seen)",
        r"(subscription|plan|trial)[^.]{0,20} (expired|ended|cancel\w+|lapsed|inactive)",
    ),
    Sentence(
        "key",
        "gateways, 403 (seen)",
        r"(invalid|expired|unknown|revoked) (key|token)\b"
        r"|\b(key|token) (is |has |was )?(been )?"
        r"(not active|inactive|not valid|invalid|expired|revoked)",
    ),
)


def _compiled(*tables: tuple[Sentence, ...]) -> tuple[tuple[RefusalReason, re.Pattern[str]], ...]:
    """Return one pattern for each reason, in the order in which they are tried."""
    rows = [row for table in tables for row in table]
    reasons = dict.fromkeys(row.reason for row in rows)
    return tuple(
        (reason, re.compile("|".join(row.pattern for row in rows if row.reason == reason)))
        for reason in reasons
    )


SentencePatterns = tuple[tuple[RefusalReason, re.Pattern[str]], ...]
_MONEY_FIRST: Final = (_UNAFFORDABLE, _UNPAID)
TOO_LARGE_EVER: Final = re.compile(_TOO_LARGE_EVER[0].pattern)
OF_A_REQUEST: Final[SentencePatterns] = (
    *_compiled(*_MONEY_FIRST, _TERMINATED, _POLICY, _TOO_LONG, _TOO_LARGE_EVER, _MODEL, _KEY),
    *_compiled(_FORBIDDEN),
)
OF_A_403: Final[SentencePatterns] = (
    *_compiled(*_MONEY_FIRST, _TERMINATED, _POLICY, _MODEL, _KEY),
    *_compiled(_FORBIDDEN, _PERMISSION),
)
OF_A_402: Final[SentencePatterns] = _compiled(_UNAFFORDABLE, _UNPAID, _TERMINATED, _POLICY, _KEY)
OF_A_RATE_LIMIT: Final[SentencePatterns] = _compiled(
    _UNAFFORDABLE, _UNPAID, _TERMINATED, _TOO_LARGE_EVER
)
OF_A_FAILURE: Final[SentencePatterns] = _compiled(_UNPAID, _TERMINATED, _POLICY, _TOO_LONG)
