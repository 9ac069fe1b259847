"""A receiver of OTLP over HTTP, with OpenTelemetry's own protobuf types: writes a line of JSON for each span and metric.

Names are compared with OpenTelemetry's own list of semantic conventions: what is in a conventions' namespace and not in
the list is written as `unknown`.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, http_attributes, service_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import error_attributes

OPERATIONS = {operation.value for operation in gen_ai_attributes.GenAiOperationNameValues}
TOKEN_TYPES = {kind.value for kind in gen_ai_attributes.GenAiTokenTypeValues}
KNOWN = {
    value
    for module in (gen_ai_attributes, http_attributes, service_attributes, error_attributes, gen_ai_metrics)
    for value in vars(module).values()
    if isinstance(value, str) and "." in value
}
NAMESPACES = ("gen_ai.", "http.", "error.", "service.")


def value_of(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


def attributes(pairs):
    return {pair.key: value_of(pair.value) for pair in pairs}


def unknown(named):
    names = [name for name in named if name.startswith(NAMESPACES) and name not in KNOWN]
    if named.get("gen_ai.operation.name", "chat") not in OPERATIONS:
        names.append(f"gen_ai.operation.name={named['gen_ai.operation.name']}")
    if named.get("gen_ai.token.type", "input") not in TOKEN_TYPES:
        names.append(f"gen_ai.token.type={named['gen_ai.token.type']}")
    return names


def spans(body):
    request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                own = attributes(span.attributes)
                yield {
                    "resource": attributes(resource.resource.attributes),
                    "scope": scope.scope.name,
                    "span": span.name,
                    "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "attributes": own,
                    "events": [event.name for event in span.events],
                    "failed": span.status.code == 2,
                    "unknown": unknown(own),
                }


def metrics(body):
    request = ExportMetricsServiceRequest.FromString(body)
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points = metric.histogram.data_points
                named = [attributes(point.attributes) for point in points]
                yield {
                    "resource": attributes(resource.resource.attributes),
                    "metric": metric.name,
                    "unit": metric.unit,
                    "points": [
                        {"attributes": own, "count": point.count, "sum": point.sum}
                        for own, point in zip(named, points)
                    ],
                    "unknown": [name for own in [{metric.name: None}, *named] for name in unknown(own)],
                }


PATHS = {"/v1/traces": (spans, ExportTraceServiceResponse), "/v1/metrics": (metrics, ExportMetricsServiceResponse)}


def main(port, path):
    lock = Lock()
    out = open(path, "a", encoding="utf-8")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            read, answer = PATHS[self.path]
            assert self.headers["content-type"] == "application/x-protobuf", self.headers["content-type"]
            lines = list(read(self.rfile.read(int(self.headers["content-length"]))))
            with lock:
                for line in lines:
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
                out.flush()
            body = answer().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


main(int(sys.argv[1]), sys.argv[2])
