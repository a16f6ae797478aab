"""All that the table says as plain data, for other programs."""

from __future__ import annotations

import json
from typing import Any

from levit_ablate.analysis.notes import not_comparable, notes
from levit_ablate.analysis.results import Results, Row


def figures(results: Results) -> dict[str, Any]:
    """All that the table says, as plain data.

    Accuracies, differences and intervals are shares from 0 to 1; the paper's are in percent and
    points, as printed there.
    """
    agreement = results.agreement
    return {
        "study": results.study,
        "summary": results.summary,
        "dataset": results.dataset,
        "seeds": list(results.seeds),
        "complete": results.is_complete,
        "rows": [_row_figures(row) for row in results.rows],
        "noise": {
            "deviation": results.noise.deviation if results.noise else None,
            "floor": results.noise_floor,
            "seeds_to_resolve_half_a_point": results.seeds_to_resolve,
        },
        "agreement": {
            "rows": agreement.num_rows,
            "signs": agreement.num_signs,
            "kendall_tau": agreement.tau,
            "kendall_tau_interval": agreement.interval,
        }
        if agreement
        else None,
        "not_comparable": not_comparable(results),
        "measured_on": results.measured_on,
        "notes": notes(results),
    }


def _row_figures(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "summary": row.summary,
        "paper_row": row.paper.get("row"),
        "params": row.params,
        "flops": row.flops,
        "n": len(row.accuracies),
        "accuracy_mean": row.mean,
        "accuracy_sd": row.deviation,
        "difference": row.difference.mean if row.difference else None,
        "pairs": row.difference.num_pairs if row.difference else None,
        "interval": row.difference.interval if row.difference else None,
        "p": row.difference.p if row.difference else None,
        "p_holm": row.p_holm,
        "interaction": row.interaction.mean if row.interaction else None,
        "interaction_interval": row.interaction.interval if row.interaction else None,
        "throughput": row.throughput,
        "latency": row.latency,
        "accuracies": {str(seed): value for seed, value in row.accuracies.items()},
        "errors": {str(seed): error for seed, error in row.errors.items()},
        "runs": {str(seed): run for seed, run in row.runs.items()},
        "paper": dict(row.paper) or None,
    }


def as_json(results: Results) -> str:
    """The figures as one JSON object."""
    return json.dumps(figures(results))
