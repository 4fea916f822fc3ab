//! A collector that takes what is posted to it, answers as a test says, and decodes it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::scripted::request;

/// What the collector does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// 200, with an empty answer.
    Takes,
    /// This status, and `Retry-After: 0`.
    Refuses(u16),
    /// Nothing, for as long as the test runs.
    Hangs,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// The head, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Whether it was taken.
    pub(crate) taken: bool,
}

/// A collector that runs as long as its test.
#[derive(Clone)]
pub(crate) struct Collector {
    pub(crate) url: String,
    pub(crate) reply: Rc<Cell<Reply>>,
    pub(crate) connections: Rc<Cell<usize>>,
    received: Rc<RefCell<Vec<Request>>>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            reply: Rc::new(Cell::new(Reply::Takes)),
            connections: Rc::default(),
            received: Rc::default(),
        };
        let serving = collector.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.set(serving.connections.get() + 1);
                tokio::task::spawn_local(serving.clone().serve(stream));
            }
        });
        collector
    }

    /// A configuration that exports to it.
    pub(crate) fn config(&self, more: &str) -> String {
        format!("[otlp]\nendpoint = \"{}\"\n{more}\n", self.url)
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut unread = Vec::new();
        while let Some((head, body)) = request(&mut stream, &mut unread).await {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let reply = self.reply.get();
            self.received.borrow_mut().push(Request { path, head, body, taken: reply == Reply::Takes });
            let status = match reply {
                Reply::Takes => 200,
                Reply::Refuses(status) => status,
                Reply::Hangs => std::future::pending().await,
            };
            let answer = format!(
                "HTTP/1.1 {status} X\r\nretry-after: 0\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.received.borrow().clone()
    }

    fn taken(&self, path: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.taken && request.path == path).collect()
    }

    /// The spans that it has taken, each with its resource.
    pub(crate) fn spans(&self) -> Vec<(Resource, Span)> {
        let mut spans = Vec::new();
        for request in self.taken("/v1/traces") {
            for of in ExportTraceServiceRequest::decode(&*request.body).unwrap().resource_spans {
                let resource = of.resource.unwrap();
                let all = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(all.map(|span| (resource.clone(), span)));
            }
        }
        spans
    }

    /// Waits until it has taken so many spans, within ten seconds.
    pub(crate) async fn has_spans(&self, count: usize) -> Vec<Span> {
        for _ in 0..1_000 {
            let spans = self.spans();
            if spans.len() >= count {
                assert_eq!(spans.len(), count, "{spans:?}");
                return spans.into_iter().map(|(_, span)| span).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it has {} spans, and not {count}", self.spans().len());
    }

    /// The metrics of the latest message that it has taken.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let Some(latest) = self.taken("/v1/metrics").pop() else { return Vec::new() };
        let message = ExportMetricsServiceRequest::decode(&*latest.body).unwrap();
        let scopes = message.resource_metrics.into_iter().flat_map(|of| of.scope_metrics);
        scopes.flat_map(|scope| scope.metrics).collect()
    }
}

/// The value of an attribute as text; empty if it is not there.
pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        None => String::new(),
        other => panic!("{key} is {other:?}"),
    }
}

/// An id in hexadecimal digits.
pub(crate) fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
}
