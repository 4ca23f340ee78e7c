//! Connections of HTTP: so many at a time, and each with a bound on how long it may take to ask and to read. A WebSocket's calls run side by
//! side, so nothing more is read from it while answers wait that it has not taken: what is kept for a slow reader is bounded, too.

use axum::{
    Router,
    http::{Request, StatusCode, header},
    serve::Listener,
};
use bytes::Bytes;
use futures::task::AtomicWaker;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use jsonrpsee::server::StopHandle;
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::Sleep,
};
use tower::Service;

/// Connections at a time; more wait until one ends.
pub const MAX_CONNECTIONS: u32 = 512;
/// The head of a request has come within this time after the one before, or the connection ends; its body within this time after the head, or the
/// answer is 408.
const ASKED_WITHIN: Duration = Duration::from_secs(30);
/// Who takes no byte of an answer for so long is cut off.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Calls of a WebSocket under way or unsent; those that came in the same packet are answered as well.
const MAX_UNSENT: usize = 16;

/// What a WebSocket has asked for and not been sent.
#[derive(Default)]
pub struct Flow {
    unsent: AtomicUsize,
    /// It does not take what is written to it.
    blocked: AtomicBool,
    reader: AtomicWaker,
}

/// A call whose answer was not sent yet.
pub struct Unsent(Arc<Flow>);

impl Flow {
    /// A call begins.
    pub fn begin(self: &Arc<Flow>) -> Unsent {
        self.unsent.fetch_add(1, Ordering::AcqRel);
        Unsent(self.clone())
    }

    /// Whether nothing more is to be read; whoever asks is woken when that may have changed.
    fn is_full(&self, context: &Context<'_>) -> bool {
        self.reader.register(context.waker());
        self.blocked.load(Ordering::Acquire) || self.unsent.load(Ordering::Acquire) >= MAX_UNSENT
    }

    fn block(&self, blocked: bool) {
        if self.blocked.swap(blocked, Ordering::AcqRel) && !blocked {
            self.reader.wake();
        }
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.0.unsent.fetch_sub(1, Ordering::AcqRel);
        self.0.reader.wake();
    }
}

/// A connection, which holds its place as long as it lasts, as a WebSocket too.
struct Socket<S> {
    stream: S,
    flow: Arc<Flow>,
    /// The other end takes something within this time.
    read_within: Duration,
    /// Runs while it does not.
    patience: Option<Pin<Box<Sleep>>>,
    /// It did not.
    cut: bool,
    _place: OwnedSemaphorePermit,
}

impl<S> Socket<S> {
    fn wrote<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.flow.block(outcome.is_pending());
        if outcome.is_ready() {
            self.patience = None;
            return outcome;
        }
        let within = self.read_within;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        ready!(patience.as_mut().poll(context));
        self.cut = true;
        self.flow.block(false); // whoever reads hears of it
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.flow.is_full(cx) {
            _ if self.cut => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            true => Poll::Pending,
            false => Pin::new(&mut self.stream).poll_read(cx, buffer),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.wrote(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A request's body, which is given up when it has not come in time, however steadily it drips.
struct Asked {
    body: Incoming,
    /// Until when it may come.
    patience: Pin<Box<Sleep>>,
    /// It was given up.
    late: Arc<AtomicBool>,
}

impl Body for Asked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        // What is there is taken: whoever reads it may have come to it late.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)));
        }
        ready!(self.patience.as_mut().poll(context));
        self.late.store(true, Ordering::Release);
        Poll::Ready(Some(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the request did not come in time: send it faster",
        ))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Listens, with room for as many who knock as are served at a time: who finds none knocks again a second later.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // of connections that have just ended here
    socket.bind(address)?;
    socket.listen(MAX_CONNECTIONS)
}

/// Serves until `stop`, and then what has begun.
pub async fn serve(mut listener: TcpListener, router: Router, stop: StopHandle) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let mut connections = JoinSet::new();
    let mut stopped = pin!(stop.clone().shutdown());
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, Listener::accept(&mut listener).await)
        };
        tokio::select! {
            (place, (stream, _)) = next => {
                let Ok(place) = place else { break }; // nobody closes them
                // An answer is one write: waiting for more to send with it would only delay it. Failing to say so costs that alone.
                let _ = stream.set_nodelay(true);
                connections.spawn(connection(stream, place, ASKED_WITHIN, router.clone(), stop.clone()));
            }
            Some(_) = connections.join_next() => {}
            () = &mut stopped => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    place: OwnedSemaphorePermit,
    asked_within: Duration,
    router: Router,
    stop: StopHandle,
) {
    let flow = Arc::new(Flow::default());
    let socket =
        Socket { stream, flow: flow.clone(), read_within: READ_WITHIN, patience: None, cut: false, _place: place };
    let ask = tower::service_fn(move |mut request: Request<Incoming>| {
        if request.headers().contains_key(header::UPGRADE) {
            request.extensions_mut().insert(flow.clone());
        }
        let late = Arc::new(AtomicBool::new(false));
        let patience = Box::pin(tokio::time::sleep(asked_within));
        let answer = router.clone().call(request.map(|body| Asked { body, patience, late: late.clone() }));
        async move {
            let mut answer = answer.await?;
            // Whoever read it took it for broken off, and says so in its own way.
            if late.load(Ordering::Acquire) {
                *answer.status_mut() = StatusCode::REQUEST_TIMEOUT;
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(asked_within);
    let served = http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(ask)).with_upgrades();
    let mut served = pin!(served);
    let mut stopped = pin!(stop.shutdown());
    let outcome = tokio::select! {
        outcome = &mut served => outcome,
        () = &mut stopped => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(e) = outcome {
        tracing::trace!(error = %e, "an HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Form, routing::post};
    use jsonrpsee::server::{Methods, ServerBuilder, stop_channel};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, WriteHalf},
        net::TcpStream,
    };

    fn socket<S>(stream: S, read_within: Duration) -> Socket<S> {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Socket { stream, flow: Arc::default(), read_within, patience: None, cut: false, _place: place }
    }

    #[tokio::test]
    async fn who_comes_with_many_others_need_not_knock_twice() {
        let listener = listen((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody takes them yet.
        let all: Vec<_> = (0..300).map(|_| TcpStream::connect(address)).collect();
        let started = std::time::Instant::now();
        assert!(futures::future::join_all(all).await.iter().all(Result::is_ok));
        assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn nothing_is_read_while_as_many_answers_wait_as_may() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = socket(server, READ_WITHIN);
        client.write_all(b"ask").await.unwrap();
        let (flow, mut asked) = (server.flow.clone(), [0; 3]);
        let mut unsent: Vec<Unsent> = (0..MAX_UNSENT).map(|_| flow.begin()).collect();
        let mut read = Box::pin(server.read_exact(&mut asked));
        assert!(futures::poll!(&mut read).is_pending());
        unsent.pop();
        read.await.unwrap();
        assert_eq!(&asked, b"ask");
    }

    #[tokio::test]
    async fn who_takes_nothing_is_not_listened_to_until_it_does() {
        let (mut client, server) = tokio::io::duplex(4);
        let (mut reads, mut writes) = tokio::io::split(socket(server, READ_WITHIN));
        client.write_all(b"ask").await.unwrap();
        let (mut asked, mut answer) = ([0; 3], [0; 9]);
        let mut write = Box::pin(writes.write_all(b"an answer"));
        assert!(futures::poll!(&mut write).is_pending());
        let mut read = Box::pin(reads.read_exact(&mut asked));
        assert!(futures::poll!(&mut read).is_pending());
        let (wrote, taken) = tokio::join!(write, client.read_exact(&mut answer));
        assert!(wrote.is_ok() && taken.is_ok() && read.await.is_ok());
        assert_eq!((&asked, &answer), (b"ask", b"an answer"));
    }

    #[tokio::test]
    async fn who_takes_nothing_for_long_is_cut_off() {
        let (_client, server) = tokio::io::duplex(4);
        let mut server = socket(server, Duration::from_millis(5));
        for _ in 0..2 {
            assert_eq!(server.write_all(b"an answer").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(server.read_exact(&mut [0; 3]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
    }

    /// What a connection brings on which a client writes, and goes on as it is told.
    async fn answered<F: Future<Output = ()>>(
        begin: &str,
        goes_on: impl FnOnce(WriteHalf<DuplexStream>) -> F,
    ) -> String {
        let within = Duration::from_millis(200);
        let text = post(async move |text: String| {
            tokio::time::sleep(2 * within).await;
            text
        });
        let (stop, _serves) = stop_channel();
        let rpc = ServerBuilder::default().to_service_builder().build(Methods::new(), stop.clone());
        let rpc = tower::service_fn(move |request: axum::extract::Request| {
            let answer = rpc.clone().call(request);
            async { Ok::<_, Infallible>(answer.await.unwrap()) }
        });
        let router = Router::new()
            .route("/text", text)
            .route("/form", post(async |Form(fields): Form<Vec<(String, String)>>| format!("{fields:?}")))
            .route_service("/rpc", rpc);
        let (client, server) = tokio::io::duplex(4096);
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let serves = connection(server, place, within, router, stop);
        let (mut reads, mut writes) = tokio::io::split(client);
        writes.write_all(begin.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let (_, (), read) = tokio::join!(serves, goes_on(writes), reads.read_to_string(&mut answer));
        read.unwrap();
        answer
    }

    fn begun(path: &str, kind: &str, body: &str, length: usize) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }

    #[tokio::test]
    async fn who_asks_too_slowly_is_told_so_and_holds_no_place() {
        let all =
            [("/text", "text/plain"), ("/form", "application/x-www-form-urlencoded"), ("/rpc", "application/json")];
        for (path, kind) in all {
            let begin = begun(path, kind, "{", 1 << 20);
            let drips = async |mut writes: WriteHalf<DuplexStream>| {
                while writes.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            for answer in [answered(&begin, async |_| ()).await, answered(&begin, drips).await] {
                assert!(answer.starts_with("HTTP/1.1 408"), "{path}: {answer}");
            }
        }
        let no_head = answered("POST /text HTTP/1.1\r\nHost: local", async |_| ()).await;
        assert_eq!(no_head, "", "who does not even end the head has asked nothing");
    }

    #[tokio::test]
    async fn what_has_come_in_time_is_answered_however_long_that_takes() {
        let begin = begun("/text", "text/plain", "quick", 5);
        let answer = answered(&begin, async |_| ()).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("quick"), "{answer}");
    }
}
