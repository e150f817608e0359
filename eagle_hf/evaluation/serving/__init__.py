"""Speed and acceptance of OpenAI-compatible servers, with and without a drafter.

servers, arrivals -> streamed requests -> requests.jsonl -> measures -> serving.json, table
                                                               ^
                result files of vllm bench serve, guidellm, aiperf
"""

from eagle_hf.evaluation.serving.bench import bench_servers
from eagle_hf.evaluation.serving.kept import KeptRequests, earlier_rows, write_serving
from eagle_hf.evaluation.serving.load import Arrival
from eagle_hf.evaluation.serving.measures import DEFINITIONS, Limits
from eagle_hf.evaluation.serving.other_tools import read_results
from eagle_hf.evaluation.serving.servers import NamedServer
from eagle_hf.evaluation.serving.settings import BenchSettings
from eagle_hf.evaluation.serving.table import category_table, definitions_text, serving_table

__all__ = [
    "DEFINITIONS",
    "Arrival",
    "BenchSettings",
    "KeptRequests",
    "Limits",
    "NamedServer",
    "bench_servers",
    "category_table",
    "definitions_text",
    "earlier_rows",
    "read_results",
    "serving_table",
    "write_serving",
]
