# Prints what genai-prices and litellm know of prices as one JSON object; numbers as decimal text, never as floats.
import hashlib, importlib.metadata, importlib.util, json, pathlib, sys


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def clause(match):
    kind = type(match).__name__
    if kind == "ClauseOr":
        return {"or": [clause(one) for one in match.or_]}
    if kind == "ClauseAnd":
        return {"and": [clause(one) for one in match.and_]}
    return dict(vars(match))


def amount(value):
    if hasattr(value, "tiers"):
        return {"base": str(value.base), "tiers": [[tier.start, str(tier.price)] for tier in value.tiers]}
    return {"base": str(value), "tiers": []}


def prices(found):
    return {key: amount(value) for key, value in vars(found).items() if value is not None}


def condition(constraint):
    kind = type(constraint).__name__
    if kind == "StartDateConstraint":
        return {"from": constraint.start_date.isoformat()}
    if kind == "TimeOfDateConstraint":
        seconds = lambda time: time.hour * 3600 + time.minute * 60 + time.second
        return {"daily": [seconds(constraint.start_time), seconds(constraint.end_time)]}
    return {}


def model(found):
    rates = found.prices if isinstance(found.prices, list) else [found]
    return {
        "id": found.id,
        "match": clause(found.match),
        "rates": [dict(condition(getattr(rate, "constraint", None)), prices=prices(rate.prices)) for rate in rates],
        "variants": [
            dict(condition(one.constraint), when=one.when, prices=prices(one.prices))
            for one in found.price_variants or []
        ],
    }


from genai_prices.data import providers

litellm = pathlib.Path(importlib.util.find_spec("litellm").origin).parent / "model_prices_and_context_window_backup.json"
genai = pathlib.Path(importlib.util.find_spec("genai_prices").origin).parent / "data.py"
json.dump(
    {
        "facts": [
            {"name": name, "version": importlib.metadata.version(name), "sha256": digest(path), "licence": "MIT"}
            for name, path in [("genai-prices", genai), ("litellm", litellm)]
        ],
        "genai": {
            one.id: {"sources": one.pricing_urls or [], "models": [model(each) for each in one.models]}
            for one in providers
        },
        "litellm": json.loads(litellm.read_text(), parse_float=str, parse_int=str),
    },
    sys.stdout,
)
