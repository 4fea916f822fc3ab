//! Statements that are sent at once.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// A statement on its way, and the answer to it.
pub(super) type Sent<'a, T> = Pin<Box<dyn Future<Output = Result<T, tokio_postgres::Error>> + Send + 'a>>;

/// Sends all statements in their order before it waits for the first answer.
pub(super) async fn pipelined<T>(mut sent: Vec<Sent<'_, T>>) -> Vec<Result<T, tokio_postgres::Error>> {
    // A statement is sent when its future is first polled.
    let mut answers: Vec<_> = poll_fn(|cx| {
        let first = |of: &mut Sent<'_, T>| match of.as_mut().poll(cx) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        };
        Poll::Ready(sent.iter_mut().map(first).collect())
    })
    .await;
    for (answer, sent) in answers.iter_mut().zip(sent) {
        if answer.is_none() {
            *answer = Some(sent.await);
        }
    }
    answers.into_iter().flatten().collect()
}
