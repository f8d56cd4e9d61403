"""The site: it builds without a warning, asks no other host for anything, and has every key and every command."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import typer
from pages import ROOT

from zigma_bench.cli.app import app
from zigma_bench.suite import Suite


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_no_page_asks_another_host(site):
    """Fonts, scripts, styles and pictures come from the site itself; links that a reader follows may go elsewhere."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|icon|preconnect|preload)"[^>]*href="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]*href="([^"]+)"[^>]*rel="(?:stylesheet|icon|preconnect|preload)"', text)
        assert loaded
        assert not [address for address in loaded if re.match(r"(?:https?:)?//", address)], page.name
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//", style.read_text()), style.name


def plain(text: str) -> str:
    """A text without spaces and marks of code."""
    return re.sub(r"[\s`]", "", text)


def test_the_page_of_suites_has_every_key(site):
    text = plain(unescape(re.sub(r"<[^>]+>", "", (site / "suites.html").read_text())))
    definitions = Suite.model_json_schema()["$defs"]
    for definition in definitions.values():
        for part in definition.get("anyOf", [definition]):
            for key, field in part.get("properties", {}).items():
                assert field.get("description"), f"{key} has no description"
                assert plain(field["description"]) in text, key


def test_the_page_of_commands_has_every_command(site):
    text = (site / "command-line.html").read_text()

    def check(command, name):
        assert f"<code>{name}</code>" in text
        for child, found in getattr(command, "commands", {}).items():
            check(found, f"{name} {child}")

    check(typer.main.get_command(app), "zigma-bench")
