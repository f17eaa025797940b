"""Names of hardware and of networks in reports on energy."""

from __future__ import annotations

TWINS = {"relu": "twin without spikes", "quantised": "quantised twin"}
"""Twin -> its name for the reader."""

ALONE = "arithmetic"
"""Name of the energy of the operations alone: memory that costs nothing is the limit of all reuse."""

TITLES = {
    "fp32": "32-bit floats",
    "int8": "8-bit integers",
    ALONE: "arithmetic alone",
    "none_reused": "nothing reused",
    "weight_stationary": "weight-stationary",
}
"""Arithmetic, or model of memory -> its name for the reader."""
