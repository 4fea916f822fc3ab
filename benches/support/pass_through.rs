//! The least that a proxy does: hyper on both sides, and nothing between. A process of its own, so
//! that its CPU time and memory can be measured beside those of the guard.

use std::convert::Infallible;
use std::process::Command;

use http::{Request, Response, StatusCode, header};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_util::task::TaskTracker;

const ARGUMENT: &str = "--pass-through-to";

/// A process that passes requests on to an upstream: this program again, which has to call [`serve_if_asked`].
pub(crate) fn command(upstream: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([ARGUMENT, upstream.trim_end_matches("/v1")]);
    command
}

/// Passes requests on for as long as the process lives, if it was started for that.
pub(crate) fn serve_if_asked() {
    if let Some(upstream) = super::asking::argument(ARGUMENT) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(serve(upstream));
    }
}

async fn serve(upstream: String) {
    let client: Client<HttpConnector, Incoming> = Client::builder(TokioExecutor::new()).build_http();
    let connections = TaskTracker::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // As a guard says where it is.
    println!("proxy listening on http://{address}\nOPENAI_BASE_URL=http://{address}/v1");
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (client, upstream) = (client.clone(), upstream.clone());
        let pass = service_fn(move |mut request: Request<Incoming>| {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            *request.uri_mut() = format!("{upstream}{path}").parse().unwrap();
            request.headers_mut().remove(header::HOST);
            let sent = client.request(request);
            async {
                Ok::<_, Infallible>(sent.await.map_or_else(
                    |_| {
                        let mut failed = Response::new(Either::Left(Empty::new()));
                        *failed.status_mut() = StatusCode::BAD_GATEWAY;
                        failed
                    },
                    |answer| answer.map(Either::Right),
                ))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        connections.spawn(connection.serve_connection(TokioIo::new(stream), pass));
    }
}
