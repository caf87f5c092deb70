"""picklescan's opinion of a pickle, beside ours. Ours decides; where the two differ, the report says so."""

import io
import logging

from phantom_scanner.report import Finding


def of(data: bytes) -> list[str]:
    """The names that picklescan calls dangerous; empty where it finds none or cannot read the file."""
    from picklescan.scanner import SafetyLevel, scan_pickle_bytes

    logging.getLogger("picklescan").disabled = True
    result = scan_pickle_bytes(io.BytesIO(data), "model")
    return sorted(
        {f"{each.module}.{each.name}" for each in result.globals if each.safety is SafetyLevel.Dangerous}
    )


def beside(data: bytes, is_ours_clean: bool) -> tuple[list[Finding], list[str]]:
    """picklescan's findings, for reading only, and a note where it comes to another verdict than we do."""
    try:
        names = of(data)
    except Exception as error:  # a foreign reader of hostile bytes: whatever it raises, it has no opinion
        return [], [f"picklescan could not read the file ({type(error).__name__})"]
    notes = []
    if bool(names) == is_ours_clean:
        theirs, ours = (", ".join(names[:5]) or "nothing", "nothing" if is_ours_clean else "something")
        notes.append(f"picklescan disagrees: it objects to {theirs}, we to {ours}; our verdict stands")
    finding = [
        Finding(
            "picklescan.global",
            "malware_scan",
            "info",
            "-",
            f"picklescan objects to {name}",
            "see our findings",
            "picklescan",
        )
        for name in names
    ]
    return finding, notes
