//! Connections are used again, or not, and what is there comes together.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Wake;

use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

/// Connections whose other ends are kept here, in the order of their creation.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<DuplexStream>>>);

impl Ends {
    fn made(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn pop(&self) -> DuplexStream {
        self.0.lock().unwrap().pop().unwrap()
    }
}

impl Service<Uri> for Ends {
    type Response = TokioIo<DuplexStream>;
    type Error = std::io::Error;
    type Future = std::future::Ready<std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (ours, theirs) = duplex(1 << 16);
        self.0.lock().unwrap().push(theirs);
        std::future::ready(Ok(TokioIo::new(ours)))
    }
}

fn pool(ends: &Ends) -> Pool {
    Pool::new(ends.clone(), Uri::from_static("http://up"), Duration::from_secs(1))
}

fn request(body: &'static [u8]) -> Request<Outgoing> {
    let was_polled = Arc::new(AtomicBool::new(false));
    Request::post("/").body(Outgoing::whole(body.into(), &was_polled)).unwrap()
}

/// Answers what is asked next, once its head and its body of `bytes` are there.
async fn answer(end: &mut DuplexStream, bytes: usize, answer: &str) {
    let mut got = Vec::new();
    while !got.windows(4).any(|end| end == b"\r\n\r\n") || got.len() < bytes {
        end.read_buf(&mut got).await.unwrap();
    }
    end.write_all(answer.as_bytes()).await.unwrap();
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn whole(pool: &Pool, ends: &Ends, text: &str) -> Bytes {
    let far = async {
        while ends.made() == 0 {
            tokio::task::yield_now().await;
        }
        let mut end = ends.pop();
        answer(&mut end, 0, text).await;
        end
    };
    let (near, end) = tokio::join!(
        async {
            let mut body = pool.request(request(b"{}")).await.unwrap().into_body();
            let mut all = Vec::new();
            // As a reader that knows the length does: not beyond the last frame.
            while !body.is_end_stream()
                && let Some(frame) = body.frame().await
            {
                all.extend_from_slice(&frame.unwrap().into_data().unwrap());
            }
            Bytes::from(all)
        },
        far
    );
    ends.0.lock().unwrap().push(end);
    near
}

#[tokio::test]
async fn a_connection_is_used_again_once_its_answer_has_been_read() {
    let ends = Ends::default();
    let pool = pool(&ends);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    for text in [OK, chunked, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", OK] {
        whole(&pool, &ends, text).await;
        assert_eq!(ends.made(), 1, "{text}");
    }
}

#[tokio::test]
async fn a_connection_that_upstream_closed_or_is_still_being_written_to_is_not_used_again() {
    let ends = Ends::default();
    let pool = pool(&ends);
    whole(&pool, &ends, OK).await;
    drop(ends.pop());
    assert_eq!(whole(&pool, &ends, OK).await, "ok");
    let mut end = ends.pop();
    // Upstream answers before it has taken the body.
    let large: &[u8] = vec![b'x'; 1 << 20].leak();
    let near = async {
        let answer = pool.request(request(large)).await.unwrap();
        answer.into_body().collect().await.unwrap();
    };
    tokio::join!(near, answer(&mut end, 0, OK));
    assert_eq!(whole(&pool, &ends, OK).await, "ok");
    assert_eq!(ends.made(), 1, "a new connection was made, the other end of the old one is ours");
}

#[tokio::test]
async fn what_is_there_together_comes_without_waiting_in_between() {
    let ends = Ends::default();
    let pool = pool(&ends);
    let asked = pool.request(request(b"{}"));
    let far = async {
        tokio::task::yield_now().await;
        let mut end = ends.pop();
        let events = "5\r\nevent\r\n".repeat(50);
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        answer(&mut end, 0, &format!("{head}{events}0\r\n\r\n")).await;
        end
    };
    let (answer, _end) = tokio::join!(asked, far);
    let mut body = answer.unwrap().into_body();
    let mut events = 0;
    poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(_))) = Pin::new(&mut body).poll_frame(cx) {
            events += 1;
        }
        Poll::Ready(())
    })
    .await;
    assert_eq!(events, 50);
}

/// Counts how often it was woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_waiting_task_is_woken_once_for_each_event() {
    let ends = Ends::default();
    let pool = pool(&ends);
    whole(&pool, &ends, OK).await;
    let mut end = ends.pop();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let cx = &mut Context::from_waker(&waker);

    let mut asked = pin!(pool.request(request(b"{}")));
    assert!(asked.as_mut().poll(cx).is_pending());
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
    let event = "5\r\nevent\r\n";
    answer(&mut end, 2, &format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{event}")).await;
    let Poll::Ready(Ok(answer)) = asked.poll(cx) else { panic!("the head is there") };
    let mut body = pin!(answer.into_body());
    for events in 1..=50 {
        assert!(body.as_mut().poll_frame(cx).is_ready());
        assert!(body.as_mut().poll_frame(cx).is_pending());
        assert_eq!(wakes.0.load(Ordering::Relaxed), events, "the first came with the head");
        end.write_all(event.as_bytes()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waited_for_long_is_not_used_again() {
    let ends = Ends::default();
    let pool = pool(&ends);
    whole(&pool, &ends, OK).await;
    tokio::time::advance(IDLE_CONNECTION_TIMEOUT * 2).await;
    assert!(pool.idle.take().is_none());
}
