"""Writes the Parquet files of tests/files/rows_test.ts as pyarrow writes public data sets: nested lists, row groups, codecs.

    pip install pyarrow && python make.py
"""
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

here = pathlib.Path(__file__).parent
message = pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())])
rows = [
    {
        "messages": [
            {"role": "user", "content": f"add {i}", "name": None},
            {"role": "assistant", "content": f"it is {i}", "name": None},
        ],
        "label": i % 2 == 0,
        "level": i * 10,
        "reward_model": {"ground_truth": str(i), "style": "rule"},
        "input_ids": [i, i + 1, i + 2],
    }
    for i in range(7)
]
schema = pa.schema(
    [
        ("messages", pa.list_(message)),
        ("label", pa.bool_()),
        ("level", pa.int64()),
        ("reward_model", pa.struct([("ground_truth", pa.string()), ("style", pa.string())])),
        ("input_ids", pa.list_(pa.int32())),
    ]
)
table = pa.Table.from_pylist(rows, schema=schema)
for codec in ["snappy", "zstd", "gzip", "none"]:
    pq.write_table(table, here / f"chats-{codec}.parquet", compression=codec, row_group_size=3)
