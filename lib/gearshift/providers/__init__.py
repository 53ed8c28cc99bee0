"""Providers of language models behind `BaseLLMService`: each file without an underscore is one."""

from gearshift.providers._base import BaseLLMService
from gearshift.providers._factory import LLMServiceFactory
from gearshift.providers._fallback import Failure, Fallback, Started, breaker, chain
from gearshift.providers._loop import background_loop, on_loop, run, submit
from gearshift.providers._model_map import counterparts, same_model
from gearshift.providers._watch import Look, Watch

__all__ = [
    "BaseLLMService",
    "Failure",
    "Fallback",
    "LLMServiceFactory",
    "Look",
    "Started",
    "Watch",
    "background_loop",
    "breaker",
    "chain",
    "counterparts",
    "on_loop",
    "run",
    "same_model",
    "submit",
]
