"""How many images a data set has, and how many of which class: counted for reports, and so that none is lost."""

from __future__ import annotations

from zigma_bench.errors import NotReady

AGAIN = "get the file again"


def images_in(file: str, kind: str) -> int:
    """The images that a file of a kind of source.SUFFIXES holds, of which none is read; NotReady for a broken file."""
    if kind == "imagefolder":
        return 1
    if kind == "webdataset":
        from zigma_bench.data.tar import count_samples

        return count_samples(file)
    return _rows_of_table(file, kind)


def _rows_of_table(file: str, kind: str) -> int:
    """The rows of a parquet or Arrow file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if kind == "parquet":
            return int(pq.read_metadata(file).num_rows)
        with pa.memory_map(file) as opened:
            try:
                table = pa.ipc.open_file(opened)
                return sum(table.get_batch(index).num_rows for index in range(table.num_record_batches))
            except pa.ArrowInvalid:  # an Arrow stream, which has no footer
                opened.seek(0)
                return sum(batch.num_rows for batch in pa.ipc.open_stream(opened))
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotReady(f"the {kind} file can't be opened ({reason})", where=file, do=AGAIN) from error
