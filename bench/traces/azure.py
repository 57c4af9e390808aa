#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Azure LLM inference traces of 2023 (github.com/Azure/AzurePublicDataset, data/AzureLLMInferenceTrace_*.csv): arrival and
lengths of single requests. What they share is not known: nothing, here."""

import csv
import sys
from datetime import datetime

from rows import BadSource, Rows, main

COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]


def seconds(text):
    whole, _, part = text.partition(".")
    return datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").timestamp() + float("0." + (part or "0"))


def convert(paths):
    rows, start = Rows(512), None
    for path in paths:
        with open(path, encoding="utf-8-sig", newline="") as f:
            table = csv.DictReader(f)
            if not set(COLUMNS) <= set(table.fieldnames or ()):
                raise BadSource(f"{path}: the columns are not {', '.join(COLUMNS)}")
            for r in table:
                at = seconds(r["TIMESTAMP"])
                start = at if start is None else start
                if int(r["ContextTokens"]) > 0:
                    n = len(rows.rows)
                    rows.call(n, n, max(0, at - start), [], 0, int(r["ContextTokens"]), int(r["GeneratedTokens"]))
    return rows


if __name__ == "__main__":
    sys.exit(main(convert, __doc__, {"trace": "azure-2023", "mode": "open", "licence": "CC-BY-4.0",
                                     "source": "github.com/Azure/AzurePublicDataset data/"}, help="AzureLLMInferenceTrace_code.csv or its like"))
