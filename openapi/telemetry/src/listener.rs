//! Where Prometheus asks: `GET /metrics` on a port of its own, for which no key is needed and which no client reaches.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::page::{CONTENT_TYPE as TEXT, Pages};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 16;
/// How long a head may take.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// Answers for as long as it is polled.
pub async fn serve(listener: TcpListener, pages: Pages) {
    let (pages, places) = (Arc::new(pages), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                warn!(%error, "a connection to the metrics' port was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let pages = pages.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(answer(&pages, &request)));
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
            if let Err(error) = server.serve_connection(TokioIo::new(socket), service).await {
                debug!(%error, "a connection to the metrics' port ended");
            }
            drop(place);
        });
    }
}

fn answer(pages: &Pages, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match pages.render() {
            Ok(page) => (StatusCode::OK, TEXT, page.into()),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", Bytes::from_static(b"not to be written\n")),
        },
        _ => (StatusCode::NOT_FOUND, "text/plain", Bytes::from_static(b"GET /metrics\n")),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}
