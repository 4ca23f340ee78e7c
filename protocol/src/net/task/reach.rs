//! The task's part in being reached: acts on what dialling back, the router and relays say ([`super::super::nat`] says why).

use super::{
    super::{
        book::{ip_and_port, rank, relay_of, split_peer},
        nat::{
            Listens, MAX_REFUSED, PLACE_ADDRESSES, Probed, RELAY_BAN, RELAY_PAUSE, RELAYS, Router, is_ours, is_relayed,
            place_at,
        },
    },
    Task, count,
};
use crate::NodeId;
use libp2p::{
    Multiaddr, PeerId,
    autonat::v1::{self as autonat, InboundProbeEvent, NatStatus, OutboundProbeError, OutboundProbeEvent},
    core::transport::ListenerId,
    dcutr, relay, upnp,
};
use std::{cmp::Reverse, time::Instant};
use tracing::{debug, info, warn};

/// A place at a relay, or the question for one.
pub(super) struct Place {
    pub relay: PeerId,
    node: NodeId,
    given: bool,
    /// How many addresses it has given.
    addresses: usize,
}

impl Task {
    pub(super) fn on_probe(&mut self, event: autonat::Event) {
        let nobody = matches!(
            &event,
            autonat::Event::OutboundProbe(OutboundProbeEvent::Error { error: OutboundProbeError::NoServer, .. })
        );
        if let autonat::Event::InboundProbe(InboundProbeEvent::Response { peer, address, .. }) = &event {
            self.hang_up(peer, address);
        }
        self.look_at_probes(nobody);
    }

    /// What dialling back shows by now; whether there was `nobody` who could.
    pub(super) fn look_at_probes(&mut self, nobody: bool) {
        let before = &self.standing.probed;
        let probed = match (self.swarm.behaviour().probes.status(), before) {
            (NatStatus::Public(address), before) => {
                let address = split_peer(&address).0;
                match (self.is_ours(&address), before) {
                    (true, before) => before.with(address),
                    (false, Probed::Public(_) | Probed::Private) => before.clone(),
                    (false, _) => Probed::Doubted,
                }
            }
            (NatStatus::Private, _) => Probed::Private,
            (NatStatus::Unknown, Probed::Nobody) => Probed::Nobody,
            (NatStatus::Unknown, _) if nobody => Probed::Nobody,
            (NatStatus::Unknown, _) => Probed::Not,
        };
        if probed != *before {
            self.turn(probed);
        }
    }

    fn is_ours(&self, address: &Multiaddr) -> bool {
        let own = self.swarm.listeners().filter(|address| !is_relayed(address));
        let own: Vec<Multiaddr> = own.chain(&self.announced).chain(&self.mapped).cloned().collect();
        is_ours(address, &own, self.sessions.values().filter_map(|session| session.sees))
    }

    /// The connection on which a peer was dialled back has shown what it was to show.
    fn hang_up(&mut self, peer: &PeerId, address: &Multiaddr) {
        let Some(session) = self.sessions.get(peer) else { return };
        let (address, _) = split_peer(address);
        let dialled = session.connections.iter().filter(|(_, at)| **at == address).map(|(id, _)| *id).max();
        if session.connections.values().filter(|at| !is_relayed(at)).count() > 1 {
            dialled.map(|id| self.swarm.close_connection(id));
        }
    }

    /// Others reach this node now, or no more.
    fn turn(&mut self, probed: Probed) {
        let before = std::mem::replace(&mut self.standing.probed, probed.clone());
        let reached_at = |probed: &Probed| if let Probed::Public(all) = probed { all.clone() } else { Vec::new() };
        let (before, now) = (reached_at(&before), reached_at(&probed));
        for gone in before.iter().filter(|address| !now.contains(address) && !self.announced.contains(address)) {
            self.swarm.remove_external_address(gone);
        }
        for new in now.iter().filter(|address| !before.contains(address)) {
            self.swarm.add_external_address(new.clone());
        }
        let reached = if now.is_empty() { relay::Status::Disable } else { relay::Status::Enable };
        self.swarm.behaviour_mut().relay.set_status(Some(reached));
        if probed != Probed::Private {
            for id in self.places.keys() {
                self.swarm.remove_listener(*id); // its end is an event
            }
        }
        self.say_addresses();
        self.publish_reachability();
        info!(reachability = %*self.reachability.borrow(), "how others reach this node has changed");
    }

    pub(super) fn on_router(&mut self, event: upnp::Event) {
        self.standing.router = match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => {
                info!(address = %external_addr, "the router has mapped the port");
                self.mapped = Some(split_peer(&external_addr).0);
                self.swarm.behaviour_mut().probes.ask_about(external_addr);
                Router::Mapped
            }
            upnp::Event::NonRoutableGateway => Router::Inner,
            upnp::Event::ExpiredExternalAddr { .. } | upnp::Event::GatewayNotFound => Router::Silent,
        };
        if self.standing.router != Router::Mapped {
            self.mapped = None;
        }
        self.say_addresses();
    }

    /// Asks for a place at a relay while peers elsewhere can't reach this node: at the one that answers fastest.
    pub(super) fn seek_relay(&mut self, now: Instant) {
        self.refused.retain(|_, until| *until > now);
        if self.standing.probed != Probed::Private || self.places.len() >= RELAYS {
            return;
        }
        let free = |peer: &PeerId| !self.refused.contains_key(peer) && !self.places.values().any(|p| p.relay == *peer);
        let place = |peer: &PeerId| {
            let known = self.book.addresses(peer);
            self.sessions[peer].connections.values().chain(&known).find_map(|address| place_at(*peer, address))
        };
        let relays =
            self.sessions.iter().filter(|(peer, session)| session.relays && session.ready.is_some() && free(peer));
        let nearest = relays.filter_map(|(peer, session)| Some((session, *peer, place(peer)?)));
        let nearest = nearest.min_by_key(|(session, ..)| (session.rtt.is_none(), session.rtt));
        let Some((node, relay, address)) = nearest.map(|(session, peer, address)| (session.node, peer, address)) else {
            return;
        };
        match self.swarm.listen_on(address) {
            Ok(id) => drop(self.places.insert(id, Place { relay, node, given: false, addresses: 0 })),
            Err(error) => {
                debug!(%relay, %error, "no place can be asked for");
                self.pass_over(relay, now + RELAY_PAUSE);
            }
        }
    }

    /// Asks this relay for no place until then.
    fn pass_over(&mut self, relay: PeerId, until: Instant) {
        if self.refused.len() < MAX_REFUSED || self.refused.contains_key(&relay) {
            let known = self.refused.entry(relay).or_insert(until);
            *known = until.max(*known);
        }
    }

    /// A relay says under which addresses peers come: few, and its own. One that says others would have this node tell its peers so much that they
    /// hear nothing of it any more.
    pub(super) fn on_place_address(&mut self, id: ListenerId, address: &Multiaddr) {
        let Some(place) = self.places.get_mut(&id) else { return };
        place.addresses += 1;
        let (relay, way) = (place.relay, relay_of(address));
        let is_its_own = way.is_some_and(|way| ip_and_port(&way).is_some() && split_peer(&way).1 == Some(relay));
        if !is_its_own || place.addresses > PLACE_ADDRESSES {
            warn!(%relay, %address, "a relay gives addresses that are none of a relay, or too many: it is not asked again for a day");
            self.pass_over(relay, Instant::now() + RELAY_BAN);
            self.swarm.remove_listener(id); // its end is an event
        }
    }

    pub(super) fn on_place(&mut self, event: relay::client::Event) {
        let relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal, .. } = event else { return };
        for place in self.places.values_mut().filter(|place| place.relay == relay_peer_id) {
            place.given = true;
        }
        if !renewal {
            info!(relay = %relay_peer_id, "peers come through a relay");
            self.say_addresses();
        }
        self.publish_reachability();
    }

    /// Whether the listener that has ended was a place at a relay.
    pub(super) fn on_listener_closed(&mut self, id: ListenerId, reason: &Result<(), std::io::Error>) -> bool {
        let Some(place) = self.places.remove(&id) else { return false };
        debug!(relay = %place.relay, ?reason, "a place at a relay has ended");
        self.pass_over(place.relay, Instant::now() + RELAY_PAUSE);
        self.publish_reachability();
        true
    }

    pub(super) fn on_punched(&mut self, event: &dcutr::Event) {
        match &event.result {
            Ok(_) => {
                count(&self.counters.punched);
                info!(peer = %event.remote_peer_id, "a direct connection took the place of one through a relay");
            }
            Err(error) => {
                count(&self.counters.not_punched);
                debug!(peer = %event.remote_peer_id, %error, "no direct connection: it goes on through the relay");
            }
        }
    }

    pub(super) fn on_relay(&mut self, event: &relay::Event) {
        match event {
            relay::Event::CircuitReqAccepted { .. } => count(&self.counters.relayed),
            relay::Event::CircuitReqDenied { .. } | relay::Event::ReservationReqDenied { .. } => {
                count(&self.counters.relay_refused);
            }
            event => debug!(?event, "as a relay"),
        }
    }

    /// Tells the peers, who may have connected before this node knew.
    fn say_addresses(&mut self) {
        let peers: Vec<PeerId> = self.sessions.keys().copied().collect();
        self.swarm.behaviour_mut().identify.push(peers);
        self.publish_listeners();
    }

    pub(super) fn publish_listeners(&mut self) {
        let local = *self.swarm.local_peer_id();
        let bare = |address: &Multiaddr| split_peer(address).0;
        let mut all: Vec<Multiaddr> = self.swarm.external_addresses().chain(self.swarm.listeners()).map(bare).collect();
        all.sort_by_key(|address| Reverse(rank(address))); // stable: what is confirmed comes first
        let mut listed: Vec<Multiaddr> = Vec::new();
        for address in all {
            if rank(&address) > 0 && listed.len() < super::MAX_LISTED && !listed.contains(&address) {
                listed.push(address);
            }
        }
        self.listeners.send_replace(listed.into_iter().filter_map(|a| a.with_p2p(local).ok()).collect());
        let on_loopback = |a: &Multiaddr| ip_and_port(a).is_some_and(|(ip, _)| ip.is_loopback());
        let listens = self.swarm.listeners().filter(|address| !is_relayed(address)).map(on_loopback).min();
        self.standing.listens = match listens {
            None => Listens::Nowhere,
            Some(true) => Listens::OnLoopback,
            Some(false) => Listens::Beyond,
        };
        self.publish_reachability();
    }

    fn publish_reachability(&self) {
        let place = self.places.values().find(|place| place.given);
        let now = self.standing.reachability(place.map(|place| place.node));
        self.reachability.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
    }
}
