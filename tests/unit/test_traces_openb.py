"""Reader of the openb lists: what it accepts, and that one error names every mistake with line and column."""

from __future__ import annotations

import gzip

import pytest

from cluster_sim.traces.openb import TraceError, TraceNode, TracePod, read_nodes, read_pods, read_stream

NODES = "sn,cpu_milli,memory_mib,gpu,model\nn-1,64000,262144,2,P100\nn-0,32000,1024,0,\n"
PODS = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
    "p-0,12000,16384,1,460,T4|P100|T4,LS,Running,7,90,7\n"
    "p-1,4000,1024,0,0,,BE,Running,,,\n"
    "p-2,4000,1024,8,2000,,BE,Running,1,2,3\n"
)


def written(folder, text, name="file.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(error):
    return [(p.line, p.column) for p in error.value.problems]


def test_nodes_are_read_in_order_with_and_without_gpu(tmp_path):
    assert read_nodes(written(tmp_path, NODES)) == [
        TraceNode("n-1", 64000, 262144, 2, "P100"),
        TraceNode("n-0", 32000, 1024, 0, ""),
    ]


def test_pods_have_sorted_models_at_most_1000_milli_and_times_where_given(tmp_path):
    assert read_pods(written(tmp_path, PODS)) == [
        TracePod("p-0", 12000, 16384, 1, 460, ("P100", "T4"), 7, 90),
        TracePod("p-1", 4000, 1024, 0, 0, ()),
        TracePod("p-2", 4000, 1024, 8, 1000, (), 1, 2),
    ]


def test_gzip_byte_order_mark_and_other_column_orders_are_read(tmp_path):
    swapped = "model,gpu,memory_mib,cpu_milli,sn,extra\r\nT4,1,10,20,n,x\r\n"
    path = written(tmp_path, gzip.compress(b"\xef\xbb\xbf" + swapped.encode()), "nodes.csv.gz")
    assert read_nodes(path) == [TraceNode("n", 20, 10, 1, "T4")]


def test_a_stream_counts_from_zero(tmp_path):
    head = "index,name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
    good = head + "0,p,1,1,0,0,\n1,p,1,1,1,50,\n"
    assert [p.gpu_milli for p in read_stream(written(tmp_path, good))] == [0, 50]
    with pytest.raises(TraceError) as error:
        read_stream(written(tmp_path, head + "0,p,1,1,0,0,\n2,p,1,1,0,0,\n"))
    assert problems(error) == [(3, "index")]


def test_every_bad_line_is_named_in_one_error(tmp_path):
    text = NODES + "n-1,-5,x,1,T4\nn-3,1,1,1\n,1,2.5,1,T4\nn-5,1,1,1,\nn-6,1,1,999,T4\n"
    with pytest.raises(TraceError) as error:
        read_nodes(written(tmp_path, text))
    assert problems(error) == [
        (4, "sn"),
        (4, "cpu_milli"),
        (4, "memory_mib"),
        (5, ""),
        (6, "sn"),
        (6, "memory_mib"),
        (7, "model"),
        (8, "gpu"),
    ]
    message = str(error.value)
    assert "8 problems" in message
    assert "line 4, cpu_milli: '-5' is not a whole number of 0 or more" in message
    assert "line 5: 4 fields, expected 5" in message
    assert "'n-1' stands in line 2 already" in message


def test_a_gpu_pod_must_say_how_much_of_a_gpu(tmp_path):
    head = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
    with pytest.raises(TraceError) as error:
        read_pods(written(tmp_path, head + "p,1,1,1,0,\nq,1,1,1,,\nr,1,1,0,,\n"))
    assert problems(error) == [(2, "gpu_milli"), (3, "gpu_milli")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the header lacks sn, cpu_milli, memory_mib, gpu, model; it has nothing"),
        ("sn,cpu_milli,memory_mib,gpu\n", "the header lacks model"),
        ("sn,cpu_milli,memory_mib,gpu,model\n", "no rows below the header"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"\x1f\x8b\x08broken", "cannot be read"),
        ("sn,cpu_milli,memory_mib,gpu,model\nn,99999999999999999999,1,1,T4\n", "is too large"),
    ],
)
def test_a_file_that_is_no_node_list_is_refused_in_words(tmp_path, text, words):
    with pytest.raises(TraceError, match=words):
        read_nodes(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"absent\.csv: 1 problem\n  file: cannot be read: No such file"):
        read_nodes(tmp_path / "absent.csv")


def test_a_long_list_of_mistakes_is_shortened_in_words_but_kept_whole(tmp_path):
    text = "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(f"n{i},x,1,1,T4\n" for i in range(80))
    with pytest.raises(TraceError, match="and 30 more") as error:
        read_nodes(written(tmp_path, text))
    assert len(error.value.problems) == 80
