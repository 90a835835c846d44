"""The adapter against a real server of its dialect: the local model, where it is installed."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deploy.local.model import UPSTREAM
from shared.settings import ModelSettings, ProviderSettings
from tests.support.processes import Process, free_port
from tests.support.waiting import until
from worker.providers.contract import ChatMessage, ChatRequest, Ended, Text, Used
from worker.providers.openai import OpenAI
