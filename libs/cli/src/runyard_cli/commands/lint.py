"""``runyard lint``: what is or may be wrong with a ``valohai.yaml``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode
from runyard_cli.output import Style, is_json, output_option, say, say_json_object, styled


@click.command("lint", epilog=examples("lint", "lint valohai.yaml --output json"))
@click.argument("file", required=False, type=click.Path(exists=True, path_type=Path))
@output_option
def command(file: Path | None) -> None:
    """Check FILE (valohai.yaml or runyard.yaml here, by default). Exit code 1 when it has errors."""
    from runyard_runspec import Severity, find_config, lint_text

    path = find_config(file or Path()) if file is None or file.is_dir() else file
    findings = lint_text(path.read_bytes(), str(path))
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if is_json():
        say_json_object({"file": str(path), "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            word = styled(finding.severity.value, Style.BAD if finding in errors else Style.BUSY)
            say(f"{path}:{finding.line}: {word}: {finding.message}")
        if not findings:
            say(f"{path}: no errors, no warnings")
    raise SystemExit(int(ExitCode.FAILED if errors else ExitCode.DONE))
