"""Launch buttons lead to the repository that the environment names, and to none without one."""

from __future__ import annotations

from launch import theme_options


def test_no_repository_no_buttons():
    assert theme_options({}) == {}
    assert theme_options({"GITHUB_REPOSITORY": ""}) == {}


def test_buttons_of_a_hosted_build():
    options = theme_options({"GITHUB_REPOSITORY": "lab/book", "GITHUB_REF_NAME": "main"})
    assert options["repository_url"] == "https://github.com/lab/book"
    assert options["launch_buttons"]["binderhub_url"].startswith("https://")
    elsewhere = {"GITHUB_REPOSITORY": "lab/book", "GITHUB_SERVER_URL": "https://git.example"}
    assert theme_options(elsewhere)["repository_url"] == "https://git.example/lab/book"
    assert theme_options(elsewhere)["repository_branch"] == "main"
