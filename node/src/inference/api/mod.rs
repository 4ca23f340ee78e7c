//! The API that OpenAI's clients speak: `/v1/models`, `/v1/completions`, `/v1/chat/completions`, with streams of server-sent events.
//!
//! A request's way: [`access`] decides who may ask, `request` understands it on a thread for blocking work, and `reply` tells what sessions write.
//! Errors are JSON, `{"error": {"message", "type", "param", "code"}}`. What waits for a place is bounded; beyond that the answer is 429 with a
//! `Retry-After`. A client that goes away ends its texts everywhere.

pub mod access;
mod fields;
pub mod keys;
pub mod limits;
mod order;
mod refusal;
mod reply;
mod request;
mod shelf;
mod spending;
mod traced;
mod writing;

use super::{
    court::model_of,
    host::near,
    hub::Hub,
    model::Model,
    session::{Event, Failure, Reach, Session},
};
use crate::service::models::Models;
use access::{Access, Caller, Grant};
use ailo_proto::{Finish, Logprob};
use ailo_protocol::{Hash, NodeId, net};
use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, FromRequest, Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use order::{Order, Text};
pub use refusal::Refusal;
use refusal::{full, invalid};
use reply::Kind;
use request::{Again, Asked};
use serde_json::json;
use shelf::Shelf;
use spending::Spending;
use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use traced::Traced;
use tracing::Span;
use writing::Writing;

/// Bytes of a request, at most.
const MAX_BODY: usize = 4 << 20;
/// Requests that are being understood at once, at most: tokenizers and templates take their time.
const READING: usize = 4;
/// Pieces that a slow reader may be behind.
const BEHIND: usize = 64;
/// Pieces of one text that wait for a slow reader beside these, at most; then it is not gone on with.
const UNREAD: usize = 1024;

/// How much is done at once, and how long whoever asks may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Texts that are written at once, at most.
    pub writing: usize,
    /// Requests that wait for a place, at most.
    pub waiting: usize,
    /// How long a slow reader may be as far behind as it can be; then its text ends.
    pub unread: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { writing: 64, waiting: 256, unread: Duration::from_secs(60) }
    }
}

/// What the routes need.
pub struct Api {
    bounds: Bounds,
    hub: Arc<Hub>,
    net: Option<net::Handle>,
    /// States of the network's own model, with which texts may have begun.
    states: Option<Models>,
    /// The model that is served now, if there is one yet.
    model: watch::Receiver<Option<Arc<Model>>>,
    readers: Arc<Semaphore>,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Texts that could not go on.
    shelf: Mutex<Shelf<Box<Order>>>,
    started: Instant,
}

impl Api {
    /// The API for what the hub serves.
    pub fn new(
        hub: Arc<Hub>,
        (net, states): (Option<net::Handle>, Option<Models>),
        model: watch::Receiver<Option<Arc<Model>>>,
        bounds: Bounds,
    ) -> Arc<Api> {
        let (readers, places) = (Arc::new(Semaphore::new(READING)), Arc::new(Semaphore::new(bounds.writing)));
        let (waiting, shelf, started) = (AtomicUsize::new(0), Mutex::default(), Instant::now());
        Arc::new(Api { bounds, hub, net, states, model, readers, places, waiting, shelf, started })
    }

    /// Its routes, for those whom `access` lets in; where there is nothing beside them (`alone`), for all paths.
    pub fn router(self: &Arc<Api>, access: Arc<Access>, alone: bool) -> Router {
        let routes = if alone { Router::new().fallback(unknown) } else { Router::new() };
        routes
            .route("/v1/models", get(models))
            .route("/v1/models/{name}", get(model))
            .route("/v1/completions", post(completions))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/{*rest}", any(unknown))
            .method_not_allowed_fallback(|| async {
                Refusal::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "",
                    "method_not_allowed",
                    "the wrong method for this path: GET what is listed, POST what is to be written",
                )
            })
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(middleware::from_fn_with_state(access, access::guard))
            .with_state(self.clone())
    }

    /// Texts that are being written, and requests that wait.
    pub fn load(&self) -> (usize, usize) {
        let writing = self.bounds.writing.saturating_sub(self.places.available_permits());
        (writing, self.waiting.load(Ordering::Relaxed))
    }

    fn model(&self) -> Result<Arc<Model>, Refusal> {
        let model = self.model.borrow().clone();
        model.ok_or_else(|| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "", "no_model", "this node has no model yet: try again soon")
        })
    }

    /// This node's own model, and what others serve.
    fn models(&self) -> Vec<serde_json::Value> {
        let (own, known) = (self.model.borrow().clone(), self.hub.known());
        own.iter()
            .map(|own| reply::model(own, &known))
            .chain(reply::others(own.as_deref(), &known).map(reply::other))
            .collect()
    }

    /// A place among the requests that wait, until it is dropped.
    fn wait(self: &Arc<Api>) -> Result<Waits, Refusal> {
        let waits = Waits(self.clone());
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.bounds.waiting {
            return Err(full());
        }
        Ok(waits)
    }

    /// What a request asks for. Threads are held until they are done, whoever still waits for it.
    async fn understand(&self, body: Bytes, model: &Arc<Model>, kind: Kind) -> Result<Asked, Refusal> {
        let reader = self.readers.clone().acquire_owned().await.map_err(|_| full())?;
        let (model, hub) = (model.clone(), self.hub.clone());
        let read = move || {
            let _reader = reader;
            Asked::read(&body, kind, &model, |name| {
                reply::others(Some(&model), &hub.known()).any(|one| one.name == name)
            })
        };
        let failed =
            |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "", "unreadable", "reading this request failed");
        tokio::task::spawn_blocking(read).await.map_err(failed)?
    }

    /// Looks at what is kept, or changes it; told the time.
    fn shelf<T>(&self, act: impl FnOnce(&mut Shelf<Box<Order>>, u64) -> T) -> T {
        let now = self.started.elapsed().as_millis() as u64;
        act(&mut self.shelf.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// The model that a text began with, if it is still here: what is served, or a state of the network's own.
    async fn began_with(&self, id: &Hash) -> Option<Arc<Model>> {
        let Some(states) = &self.states else { return self.model().ok().filter(|model| model.id == *id) };
        let _reader = self.readers.acquire().await.ok()?;
        tokio::task::spawn_blocking(model_of(states, &self.model, id)).await.ok()?
    }

    /// What is left of a text that is to be taken up again, and its model: see [`Order::left`].
    async fn kept(
        &self,
        again: &Again,
        (key, kind): (Option<Hash>, Kind),
    ) -> Result<(Arc<Model>, (u32, u64)), Refusal> {
        let began = self.shelf(|shelf, now| {
            let order = shelf.get(now, key, &again.id).ok_or_else(not_kept)?;
            if order.kind != kind {
                return Err(invalid("resume", "a text is taken up again at the path where it was asked for"));
            }
            Ok(order.model)
        })?;
        let Some(model) = self.began_with(&began).await else {
            let why = "the model has changed since this text was begun: ask for it anew";
            return Err(Refusal::new(StatusCode::CONFLICT, "resume", "model_changed", why));
        };
        let left = self.shelf(|shelf, now| shelf.get(now, key, &again.id).map(|order| order.left(model.context())));
        Ok((model, left.ok_or_else(not_kept)?))
    }
}

/// What is answered to a path that is none.
async fn unknown() -> Refusal {
    let message = "no such path: /v1/models, /v1/completions and /v1/chat/completions are here";
    Refusal::new(StatusCode::NOT_FOUND, "", "not_found", message)
}

fn not_kept() -> Refusal {
    let why = "no such text is kept here (any more) for this API key: ask for it anew";
    Refusal::new(StatusCode::NOT_FOUND, "resume", "unknown_resume", why)
}

fn json_of(value: &serde_json::Value) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string())
}

async fn models(State(api): State<Arc<Api>>) -> Response {
    json_of(&json!({ "object": "list", "data": api.models() })).into_response()
}

async fn model(State(api): State<Arc<Api>>, name: Result<Path<String>, PathRejection>) -> Result<Response, Refusal> {
    let Path(name) = name.map_err(|_| Refusal::no_model("?"))?;
    let Some(found) = api.models().into_iter().find(|model| model["id"] == name.as_str()) else {
        api.model()?;
        return Err(Refusal::no_model(&name));
    };
    Ok(json_of(&found).into_response())
}

/// Pages of other sites can't send JSON without asking first; they could send a form.
fn json_only(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "",
        "not_json",
        "send JSON, and say so: content-type: application/json",
    ))
}

/// The bytes of a request.
async fn body(request: Request) -> Result<Bytes, Refusal> {
    Bytes::from_request(request, &()).await.map_err(|why| match why.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "", "too_large", "a request has 4 MiB at most")
        }
        _ => invalid("", "the request broke off, or did not come within 30 s: send it again, faster"),
    })
}

async fn completions(state: State<Arc<Api>>, caller: Extension<Caller>, request: Request) -> Result<Response, Refusal> {
    answer(state.0, caller.0, request, Kind::Completion).await
}

async fn chat(state: State<Arc<Api>>, caller: Extension<Caller>, request: Request) -> Result<Response, Refusal> {
    answer(state.0, caller.0, request, Kind::Chat).await
}

/// A piece of one of the texts.
pub(super) struct Piece {
    choice: u32,
    text: String,
    tokens: Vec<(u32, Option<Logprob>)>,
    finish: Option<Finish>,
    /// Who computed it, where that is not who computed the piece before.
    stages: Vec<(NodeId, Range<u32>)>,
}

/// What a text holds until it ends.
struct Place {
    _permit: OwnedSemaphorePermit,
    grant: Arc<Grant>,
}

async fn answer(api: Arc<Api>, caller: Caller, request: Request, kind: Kind) -> Result<Response, Refusal> {
    let (mut traced, key) = (Traced::begin(kind), caller.key());
    let begun = begin(&api, caller, request, kind, &traced).await;
    let Begun { model, order, pieces } = begun.inspect_err(|refusal| traced.refused(refusal))?;
    let told = Telling { api, model, key, pieces, failed: None, traced };
    if order.plan.stream { Ok(told.stream(order)) } else { told.whole(order).await }
}

/// A request that is being answered.
struct Begun {
    model: Arc<Model>,
    order: Box<Order>,
    pieces: mpsc::Receiver<Result<Piece, Failure>>,
}

/// Understands a request, and begins its texts once there is a place for them.
async fn begin(
    api: &Arc<Api>,
    caller: Caller,
    request: Request,
    kind: Kind,
    traced: &Traced,
) -> Result<Begun, Refusal> {
    json_only(request.headers())?;
    let model = api.model()?;
    let body = body(request).await?;
    let waits = api.wait()?;
    let asked = api.understand(body, &model, kind).await?;
    let key = caller.key();
    // What is taken up again stays where it is kept until it has a place.
    let source = match asked {
        Asked::New(plan) => {
            let spending = Spending::new(Arc::new(caller.clone()), plan.max_alc);
            Source::New(Box::new(Order::new(kind, model.id, *plan, spending)))
        }
        Asked::Again(again) => Source::Kept(again),
    };
    let (model, read, (texts, tokens)) = match &source {
        Source::New(order) => {
            let left = order.left(model.context());
            (model, order.read(), left)
        }
        Source::Kept(again) => {
            let (began, left) = api.kept(again, (key, kind)).await?;
            (began, 0, left)
        }
    };
    traced.asks(&model, (texts, read));
    if texts as usize > api.bounds.writing {
        return Err(invalid("n", &format!("at most {} texts are written for one request", api.bounds.writing)));
    }
    let grant = caller.begin(texts, read as u64 + tokens)?;
    let first = api.places.clone().acquire_owned().await.map_err(|_| full())?;
    grant.used(read);
    let order = match source {
        Source::New(order) => order,
        Source::Kept(again) => {
            let mut order = api.shelf(|shelf, now| shelf.take(now, key, &again.id)).ok_or_else(not_kept)?;
            (order.plan.stream, order.plan.usage) = (again.stream, again.usage);
            order
        }
    };
    traced.span.record("stream", order.plan.stream);
    let pieces = write_all(api, &model, &order, (first, grant, waits), (key, &traced.span));
    Ok(Begun { model, order, pieces })
}

/// Where an order comes from.
enum Source {
    New(Box<Order>),
    Kept(Again),
}

/// Begins all texts of an order, or goes on with them, each once there is a place for it; their pieces come one by one. Each gives its place back when it
/// ends, whatever the others wait for, and a request waits for one at a time: others come between its texts, and it comes between theirs.
fn write_all(
    api: &Arc<Api>,
    model: &Arc<Model>,
    order: &Order,
    (first, grant, waits): (OwnedSemaphorePermit, Grant, Waits),
    (key, span): (Option<Hash>, &Span),
) -> mpsc::Receiver<Result<Piece, Failure>> {
    let (sender, pieces) = mpsc::channel(BEHIND);
    let mut open = Vec::new();
    for text in order.texts(model.context()) {
        let Some(finish) = text.finish() else {
            open.push(text);
            continue;
        };
        // Its last token has come, and the word that it was the last has not.
        let last = last(Writing::after(model, &text, &order.plan.stops), text.choice, finish);
        let _ = sender.try_send(Ok(last)); // There is room for one of each.
    }
    let (api, model, stops, spending) = (api.clone(), model.clone(), order.plan.stops.clone(), order.spending.clone());
    let span = span.clone();
    tokio::spawn(async move {
        // It waits until the last one has begun.
        let (mut first, grant, _waits) = (Some(first), Arc::new(grant), waits);
        for text in open {
            let permit = match first.take() {
                Some(permit) => permit,
                None => tokio::select! {
                    Ok(permit) = api.places.clone().acquire_owned() => permit,
                    () = sender.closed() => return,
                },
            };
            let (near, owner) = (api.net.as_ref().map(near).unwrap_or_default(), key.unwrap_or_default());
            let reach = Reach { near, owner, budget: Some(spending.clone()), ..Reach::default() };
            let tokens = [&text.prompt[..], &text.written].concat();
            let session = span.in_scope(|| Session::start(&api.hub, &model, reach, tokens, text.sampling.clone()));
            let out = (sender.clone(), api.bounds.unread);
            let place = Place { _permit: permit, grant: grant.clone() };
            tokio::spawn(write(session, (model.clone(), text, stops.clone()), out, place));
        }
    });
    pieces
}

/// Tells whoever asked what is written.
struct Telling {
    api: Arc<Api>,
    model: Arc<Model>,
    key: Option<Hash>,
    pieces: mpsc::Receiver<Result<Piece, Failure>>,
    /// Why a text has failed: of several reasons one that passes.
    failed: Option<Refusal>,
    traced: Traced,
}

impl Telling {
    /// What comes next, until all texts have ended: one that fails takes nothing from the others.
    async fn piece(&mut self) -> Option<Piece> {
        loop {
            match self.pieces.recv().await? {
                Ok(piece) => {
                    self.traced.wrote(piece.tokens.len());
                    return Some(piece);
                }
                Err(why) => {
                    let why = Refusal::from(&why);
                    if self.failed.as_ref().is_none_or(|known| known.wait == 0 && why.wait > 0) {
                        self.failed = Some(why);
                    }
                }
            }
        }
    }

    /// What can't go on now is kept, if it can later. If it can't, it comes back with all that there is of it.
    fn keep(&self, mut order: Box<Order>, refusal: Refusal) -> (Refusal, Option<Box<Order>>) {
        if refusal.wait > 0 {
            let bytes = order.bytes();
            match self.api.shelf(|shelf, now| shelf.put(now, self.key, bytes, order)) {
                Ok(id) => return (Refusal { resume: Some(id), ..refusal }, None),
                Err(back) => order = back,
            }
        }
        order.give_out(&self.model);
        (refusal, Some(order))
    }

    /// All of it at once. What can't be had later, and may be paid for, is told beside the error.
    async fn whole(mut self, mut order: Box<Order>) -> Result<Response, Refusal> {
        while let Some(piece) = self.piece().await {
            order.answer.take(piece);
        }
        let Some(refusal) = self.failed.take() else {
            self.traced.finished();
            return Ok(json_of(&order.answer.whole(&self.model)).into_response());
        };
        self.traced.refused(&refusal);
        match self.keep(order, refusal) {
            (refusal, Some(order)) if order.answer.has_begun() => {
                Ok(json_of(&order.answer.broken(&self.model, &refusal)).into_response())
            }
            (refusal, _) => Err(refusal),
        }
    }

    /// As it comes.
    fn stream(self, order: Box<Order>) -> Response {
        let stream = futures::stream::unfold((self, Progress::Begin(order)), |(mut told, progress)| async move {
            let (bytes, progress) = told.next(progress).await?;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(bytes)), (told, progress)))
        });
        let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
        (headers, Body::from_stream(stream)).into_response()
    }

    /// The next events of a stream.
    async fn next(&mut self, progress: Progress) -> Option<(String, Progress)> {
        let done = || "data: [DONE]\n\n".to_string();
        Some(match progress {
            Progress::Begin(mut order) => {
                (order.answer.beginning(&self.model) + &order.answer.news(&self.model), Progress::Pieces(order))
            }
            Progress::Pieces(mut order) => match self.piece().await {
                Some(piece) => {
                    order.answer.take(piece);
                    (order.answer.news(&self.model), Progress::Pieces(order))
                }
                None => match self.failed.take() {
                    Some(refusal) => {
                        self.traced.refused(&refusal);
                        let (refusal, rest) = self.keep(order, refusal);
                        let rest = rest.map_or_else(String::new, |mut order| order.answer.news(&self.model));
                        (rest + &reply::event(&refusal.body()), Progress::End)
                    }
                    None if !order.answer.is_whole() => {
                        let refusal = unread();
                        self.traced.refused(&refusal);
                        (reply::event(&refusal.body()), Progress::End)
                    }
                    None => {
                        self.traced.finished();
                        match order.plan.usage {
                            true => (order.answer.usage(&self.model), Progress::Done),
                            false => (done(), Progress::End),
                        }
                    }
                },
            },
            Progress::Done => (done(), Progress::End),
            Progress::End => return None,
        })
    }
}

/// A request of which texts wait for places.
struct Waits(Arc<Api>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who reads too slowly has missed what came.
fn unread() -> Refusal {
    let message = "this text was not read as fast as it was written, and was given up: ask again, and read on";
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "", "too_slow", message)
}

/// Where a stream of events is.
enum Progress {
    Begin(Box<Order>),
    Pieces(Box<Order>),
    Done,
    End,
}

/// Writes one text, until it ends, or nobody has read it for so long. The session goes on while its pieces wait to be read.
async fn write(
    mut session: Session,
    (model, text, stops): (Arc<Model>, Text, Vec<String>),
    (out, unread): (mpsc::Sender<Result<Piece, Failure>>, Duration),
    place: Place,
) {
    let mut writing = Writing::after(&model, &text, &stops);
    let (mut known, mut waiting) = (Vec::new(), VecDeque::new());
    let mut read = tokio::time::Instant::now();
    let last = loop {
        // Who has gone away is noticed before the next token.
        let event = tokio::select! {
            room = out.reserve(), if !waiting.is_empty() => {
                let (Ok(room), Some(piece)) = (room, waiting.pop_front()) else { return };
                room.send(piece);
                read = tokio::time::Instant::now();
                continue;
            }
            event = session.next(), if waiting.len() < UNREAD => event,
            () = tokio::time::sleep_until(read + unread), if !waiting.is_empty() => return,
            () = out.closed() => return,
        };
        let next = match event {
            Some(Event::Token(token, logprob)) => {
                place.grant.used(1);
                let (shown, stopped) = writing.push(token);
                let (choice, tokens, finish) = (text.choice, vec![(token, logprob)], stopped.then_some(Finish::Stop));
                let now = session.stages();
                let stages = if now == known { Vec::new() } else { now.clone() };
                known = now;
                Piece { choice, text: shown, tokens, finish, stages }
            }
            Some(Event::Finished(finish)) => break Ok(last(writing, text.choice, finish)),
            Some(Event::Failed(why)) => break Err(why),
            None => return,
        };
        if next.finish.is_some() {
            break Ok(next);
        }
        if waiting.is_empty() {
            read = tokio::time::Instant::now();
        }
        waiting.push_back(Ok(next));
    };
    // Nobody computes for who reads later.
    drop(session);
    for piece in waiting.into_iter().chain([last]) {
        if out.send_timeout(piece, unread).await.is_err() {
            return;
        }
    }
}

/// The last piece of a text.
fn last(writing: Writing<'_>, choice: u32, finish: Finish) -> Piece {
    let (text, stopped) = writing.finish();
    let finish = Some(if stopped { Finish::Stop } else { finish });
    Piece { choice, text, tokens: Vec::new(), finish, stages: Vec::new() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ailo_protocol::{Keypair, presets};
    use ailo_training::state::ModelState;

    #[tokio::test]
    async fn a_text_goes_on_with_the_state_that_it_began_with_as_long_as_that_is_here() {
        let (folder, config) = (tempfile::tempdir().unwrap(), presets::dev().model);
        let states = Models::open(folder.path().into(), config);
        let [old, new] = [1, 2].map(|seed| {
            let held = states.put(ModelState::initial(&config, seed)).unwrap();
            Arc::new(Model::own(config, held).unwrap())
        });
        let hub = Hub::new(Keypair::generate(), Hash::ZERO, 0.0, (None, None), None);
        let served = watch::channel(Some(new.clone())).1;
        let api = Api::new(hub.clone(), (None, Some(states)), served.clone(), Bounds::default());
        for id in [old.id, new.id] {
            assert_eq!(api.began_with(&id).await.map(|model| model.id), Some(id));
        }
        assert!(api.began_with(&Hash::ZERO).await.is_none());
        // A checkpoint is the only one that there is.
        let api = Api::new(hub, (None, None), served, Bounds::default());
        assert!(api.began_with(&old.id).await.is_none() && api.began_with(&new.id).await.is_some());
    }
}
