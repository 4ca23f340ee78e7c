//! Who may ask: looked at before a request is read.
//!
//! | address | who |
//! | --- | --- |
//! | loopback | everybody on this machine; with `--require-api-key`, keys alone |
//! | any other | keys alone |
//!
//! Programs must send some key to be content, so on an open loopback a key that can't be one of ours is as good as none; one of ours is held
//! to its limits, and refused everywhere once it is revoked.
//!
//! A page in a browser may point a name of its own at this machine (DNS rebinding) and would then read what the API answers here. So on
//! loopback `Host` and `Origin` must be this machine's names, or those of `--allow-host`. No answer has CORS headers: pages of other sites read nothing.

use super::{
    Refusal,
    keys::{self, Stamp},
    limits::{Beyond, Left, Meter, seconds},
};
use crate::{
    error::NodeError,
    inference::payment::{Budget, Unpayable},
};
use ailo_protocol::{Amount, Hash};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How often the file of keys is looked at, at most.
const LOOK: Duration = Duration::from_secs(1);
/// Names that this machine may be called by, and bytes of each, at most.
const MAX_HOSTS: (usize, usize) = (64, 253);

/// What the operator says.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The file of keys.
    pub keys: Option<PathBuf>,
    /// Whether a key is needed on loopback, too.
    pub required: bool,
    /// What this machine is called, beside its names for itself.
    pub hosts: Vec<String>,
}

/// Who may ask.
pub struct Access {
    file: Option<PathBuf>,
    required: bool,
    /// Names that requests must be for; none: any.
    hosts: Option<Vec<String>>,
    known: Mutex<Known>,
}

struct Known {
    looked: Instant,
    stamp: Option<Stamp>,
    keys: HashMap<Hash, Meter>,
}

impl Access {
    /// The rules for an API at `http`.
    ///
    /// # Errors
    ///
    /// [`NodeError::Usage`] if keys are needed and no file of them is named, or it can't be used.
    pub fn open(rules: Rules, http: SocketAddr) -> Result<Arc<Access>, NodeError> {
        let Rules { keys: file, required, hosts } = rules;
        let exposed = !http.ip().is_loopback();
        let required = required || exposed;
        if required && file.is_none() {
            return Err(NodeError::Usage(format!(
                "whoever reaches {http} could use this machine: name a file of keys with --api-keys FILE (`ailo-node api-keys create --file FILE` makes one)"
            )));
        }
        if hosts.len() > MAX_HOSTS.0 || hosts.iter().any(|host| host.is_empty() || host.len() > MAX_HOSTS.1) {
            return Err(NodeError::Usage("--allow-host takes at most 64 names like chat.example.org".into()));
        }
        // Where a key is needed from everybody, a page that has none learns nothing under any name.
        let hosts = (!exposed || !hosts.is_empty()).then_some(hosts);
        let known = Known { looked: Instant::now(), stamp: None, keys: HashMap::new() };
        let access = Access { file, required, hosts, known: Mutex::new(known) };
        access.read(&mut access.known(), now())?;
        if required && access.known().keys.is_empty() {
            tracing::warn!(
                "the API at {http} needs a key, and there is none: make one with `ailo-node api-keys create`"
            );
        }
        Ok(Arc::new(access))
    }

    /// Whether nobody is answered without a key.
    pub fn required(&self) -> bool {
        self.required
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys as they are now. A file that has become unusable changes nothing: whoever damaged it by hand would lock everybody out.
    fn current(&self, now: u64) -> MutexGuard<'_, Known> {
        let mut known = self.known();
        if known.looked.elapsed() >= LOOK {
            known.looked = Instant::now();
            if let Err(e) = self.read(&mut known, now) {
                tracing::error!(error = %e, "the API keys stay as they were");
            }
        }
        known
    }

    /// Reads the file if it has changed; what keys that stay have asked for is kept.
    fn read(&self, known: &mut Known, now: u64) -> Result<(), NodeError> {
        let Some(file) = &self.file else { return Ok(()) };
        let stamp = keys::stamp(file);
        if stamp == known.stamp {
            return Ok(());
        }
        known.stamp = stamp;
        let mut old = std::mem::take(&mut known.keys);
        let entries = match keys::read(file) {
            Ok(entries) => entries,
            Err(e) => {
                known.keys = old;
                // What the system refused may work the next time; a damaged file stays so until it changes.
                known.stamp = stamp.filter(|_| !matches!(e, NodeError::Io { .. }));
                return Err(e);
            }
        };
        known.keys.extend(entries.into_iter().map(|entry| {
            let mut meter = old.remove(&entry.hash).unwrap_or_else(|| Meter::new(entry.limits, now));
            meter.limit(entry.limits);
            (entry.hash, meter)
        }));
        Ok(())
    }

    /// Whether a request is for this machine by a name that it has.
    pub fn is_for_us(&self, headers: &HeaderMap) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        let ours = |name: &HeaderName| {
            let value = headers.get(name)?.to_str().unwrap_or_default();
            Some(is_ours(value.split_once("://").map_or(value, |(_, host)| host), hosts))
        };
        // Every browser says both where it matters; other programs have no Origin.
        ours(&header::HOST) == Some(true) && ours(&header::ORIGIN) != Some(false)
    }

    fn host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.is_for_us(headers) {
            return Ok(());
        }
        let message = "this API is for programs on this machine: ask it as localhost or 127.0.0.1, or let it be called by other names with --allow-host";
        Err(Refusal::new(StatusCode::FORBIDDEN, "", "wrong_host", message))
    }

    /// Who asks, by the key that comes with the request.
    fn who(self: &Arc<Access>, headers: &HeaderMap, now: u64) -> Result<Caller, Refusal> {
        let said = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        let key = said.and_then(|said| {
            let (scheme, key) = said.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
        // Hashes are looked for, so what a wrong key has in common with a right one shows nowhere, not in the time either.
        let hash = key.map(keys::hash).filter(|hash| self.current(now).keys.contains_key(hash));
        let ours = key.is_some_and(|key| key.starts_with(keys::PREFIX));
        if hash.is_none() && (self.required || ours) {
            let message = if said.is_none() {
                "an API key is needed here: send it as 'Authorization: Bearer KEY'; who runs this node makes keys with `ailo-node api-keys create`"
            } else {
                "this API key is not known here, or was revoked: ask who runs this node for another"
            };
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "", "invalid_api_key", message));
        }
        Ok(Caller { access: self.clone(), key: hash })
    }
}

/// Whether a host, as browsers write one, with or without a port, is this machine or one of `hosts`.
fn is_ours(host: &str, hosts: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        || hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
}

/// Lets requests through that are for this machine by a name that it has.
pub async fn by_our_names(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    match access.host(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Lets a request through, or says why not; tells who has a key what is left of its limits.
pub(super) async fn guard(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let caller = match access.host(request.headers()).and_then(|()| access.who(request.headers(), now())) {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    let mut response = match caller.request() {
        Ok(()) => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    };
    caller.tell(response.headers_mut());
    response
}

/// Who asks.
#[derive(Clone)]
pub(super) struct Caller {
    access: Arc<Access>,
    /// The key; none: somebody on this machine.
    key: Option<Hash>,
}

impl Caller {
    /// What its meter says; nothing without a key, or when it was revoked meanwhile.
    fn meter<T>(&self, act: impl FnOnce(&mut Meter, u64) -> T) -> Option<T> {
        let now = now();
        self.access.known().keys.get_mut(&self.key?).map(|meter| act(meter, now))
    }

    fn request(&self) -> Result<(), Refusal> {
        self.meter(Meter::request).unwrap_or(Ok(())).map_err(refused)
    }

    /// Begins texts that take so many tokens at most.
    pub fn begin(&self, texts: u32, tokens: u64) -> Result<Grant, Refusal> {
        self.meter(|meter, now| meter.begin(now, texts, tokens)).unwrap_or(Ok(())).map_err(refused)?;
        Ok(Grant { caller: self.clone(), texts, tokens, used: AtomicU64::new(0) })
    }

    /// The key that it is known by.
    pub fn key(&self) -> Option<Hash> {
        self.key
    }

    /// Says in the headers what is left, as OpenAI's API does.
    fn tell(&self, headers: &mut HeaderMap) {
        let Some((requests, tokens)) = self.meter(Meter::left) else { return };
        let mut say = |names: [&'static str; 3], left: Option<Left>| {
            let Some(Left { limit, left, reset_ms }) = left else { return };
            for (name, value) in names.into_iter().zip([limit.to_string(), left.to_string(), span(reset_ms)]) {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(name, value);
                }
            }
        };
        say(["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"], requests);
        say(["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"], tokens);
    }
}

impl Budget for Caller {
    fn spend(&self, cost: Amount) -> Result<(), Unpayable> {
        let revoked = Unpayable::Key { spent: Amount::ZERO, limit: Amount::ZERO, asked: cost };
        let spent = self.meter(|meter, now| meter.spend(now, cost));
        spent.unwrap_or(if self.key.is_none() { Ok(()) } else { Err(revoked) })
    }
}

/// Texts that were begun with a key. Dropping it ends them, and gives back what was not used.
pub(super) struct Grant {
    caller: Caller,
    texts: u32,
    tokens: u64,
    used: AtomicU64,
}

impl Grant {
    /// Counts tokens that were read or written.
    pub fn used(&self, tokens: usize) {
        self.used.fetch_add(tokens as u64, Ordering::Relaxed);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let used = self.used.load(Ordering::Relaxed);
        self.caller.meter(|meter, now| meter.end(now, self.texts, self.tokens, used));
    }
}

fn refused(why: Beyond) -> Refusal {
    let (status, kind, code, wait) = match &why {
        Beyond::Requests { wait_ms, .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "requests", "rate_limit_exceeded", *wait_ms)
        }
        Beyond::Tokens { wait_ms, .. } => (StatusCode::TOO_MANY_REQUESTS, "tokens", "rate_limit_exceeded", *wait_ms),
        Beyond::Texts { .. } => (StatusCode::TOO_MANY_REQUESTS, "requests", "rate_limit_exceeded", 1),
        Beyond::Ever { .. } => (StatusCode::BAD_REQUEST, "invalid_request_error", "above_limit", 0),
    };
    Refusal { kind, wait: seconds(wait), ..Refusal::new(status, "", code, &why.to_string()) }
}

/// A span of time in the form of these headers: 250ms, 12s, 1m30s, 23h0m1s.
fn span(ms: u64) -> String {
    let all = seconds(ms);
    match (all / 3600, all / 60 % 60, all % 60) {
        _ if ms < 1000 => format!("{ms}ms"),
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(rules: Rules, http: &str) -> Arc<Access> {
        Access::open(rules, http.parse().unwrap()).unwrap()
    }

    fn headers(all: &[(HeaderName, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn only_this_machines_names_reach_a_loopback() {
        let local = access(Rules { hosts: vec!["chat.example.org".into()], ..Rules::default() }, "127.0.0.1:1");
        let host = |host| local.host(&headers(&[(header::HOST, host)])).is_ok();
        for name in [
            "localhost",
            "LocalHost:8650",
            "localhost.",
            "127.0.0.1:8650",
            "127.1.2.3",
            "[::1]:8650",
            "Chat.Example.org",
        ] {
            assert!(host(name), "{name}");
        }
        for name in [
            "",
            "evil.org",
            "evil.org:8650",
            "localhost.evil.org",
            "127.0.0.1.evil.org",
            "192.168.1.2",
            "0.0.0.0:1",
            "[::]",
            "[::1",
            "evil.org:localhost",
            "localhost@evil.org",
            "2130706433",
            "example.org",
        ] {
            assert_eq!(host(name), name == "[::1", "{name}");
        }
        assert!(local.host(&HeaderMap::new()).is_err());
        let from = |origin| local.host(&headers(&[(header::HOST, "localhost:1"), (header::ORIGIN, origin)])).is_ok();
        assert!(from("http://localhost:3000") && from("https://chat.example.org") && from("http://[::1]"));
        assert!(!from("https://evil.org") && !from("null") && !from("") && !from("file://"));
    }

    #[test]
    fn where_keys_are_needed_names_are_not_unless_they_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let rules = Rules { keys: Some(dir.path().join("keys")), ..Rules::default() };
        let any = access(rules.clone(), "0.0.0.0:1");
        assert!(any.host(&headers(&[(header::HOST, "evil.org")])).is_ok());
        let one = access(Rules { hosts: vec!["a.org".into()], ..rules }, "[::]:1");
        assert!(one.host(&headers(&[(header::HOST, "evil.org")])).is_err());
        assert!(one.host(&headers(&[(header::HOST, "a.org")])).is_ok());
    }

    #[test]
    fn an_exposed_api_needs_keys() {
        for http in ["0.0.0.0:1", "192.168.0.1:1", "[::]:1", "[2001:db8::1]:1"] {
            let why = Access::open(Rules::default(), http.parse().unwrap()).err().unwrap().to_string();
            assert!(why.contains("--api-keys"), "{why}");
        }
        assert!(!access(Rules::default(), "[::1]:1").required());
        let none = access(Rules { keys: Some("/nowhere/keys".into()), ..Rules::default() }, "0.0.0.0:1");
        for sent in [&[][..], &[(header::AUTHORIZATION, "Bearer none")], &[(header::AUTHORIZATION, "Basic YTpi")]] {
            assert_eq!(none.who(&headers(sent), 0).err().unwrap().status, StatusCode::UNAUTHORIZED);
        }
    }

    #[test]
    fn an_open_loopback_takes_any_key_but_a_wrong_one_of_ours() {
        let local = access(Rules::default(), "127.0.0.1:1");
        let who = |key: &str| local.who(&headers(&[(header::AUTHORIZATION, key)]), 0);
        assert!(who("Bearer none").is_ok_and(|caller| caller.key.is_none()) && who("Basic x").is_ok());
        assert!(local.who(&HeaderMap::new(), 0).is_ok());
        assert!(who(&format!("Bearer {}{}", keys::PREFIX, "0".repeat(64))).is_err());
    }

    #[test]
    fn spans_are_written_as_clients_read_them() {
        assert_eq!(
            [0, 250, 1000, 1001, 90_000, 82_800_500].map(span),
            ["0ms", "250ms", "1s", "2s", "1m30s", "23h0m1s"]
        );
    }
}
