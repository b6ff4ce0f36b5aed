//! An app of a test's: it listens or does not, and whoever has to learn of that does.

use std::fmt::Debug;
use std::net::TcpListener;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use store::{Alive, Instance, InstanceCheck, NodeName, Registered, Store};

use crate::place::{Place, soon};

pub(crate) fn name<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// As most tests want one: on a node, with a TCP check of a port.
pub(crate) fn instance(node: &str, port: u16) -> Instance {
    Instance {
        app: name("slug"),
        cluster: name("dev"),
        node: name(node),
        version: name("0.1"),
        digest: "d1".to_owned(),
        port: Some(port),
        check: InstanceCheck::Tcp { port, interval: Duration::from_secs(1), timeout: Duration::from_secs(1) },
    }
}

pub(crate) struct App<'a> {
    place: &'a Place,
    pub(crate) store: Store,
    pub(crate) instance: Instance,
    listener: Option<TcpListener>,
    /// The agent that says how it is.
    agent: Option<Alive>,
}

impl<'a> App<'a> {
    /// One that is not registered.
    pub(crate) async fn new(place: &'a Place, node: &str) -> Self {
        let (store, instance) = (place.store(), instance(node, fixtures::free_port()));
        let agent = store.stay_alive(&instance.node, "pp-setlive").await.unwrap();
        Self { place, store, instance, listener: None, agent: Some(agent) }
    }

    /// One that is registered and passing.
    pub(crate) async fn passing(place: &'a Place, node: &str) -> Self {
        let mut app = Self::new(place, node).await;
        app.store.register(&app.instance).await.unwrap();
        app.start().await;
        app.until(|it| it.passing).await;
        app
    }

    pub(crate) async fn start(&mut self) {
        self.listener = Some(TcpListener::bind(("127.0.0.1", self.instance.port.unwrap())).unwrap());
        self.report(true).await;
    }

    pub(crate) async fn stop(&mut self) {
        self.listener = None;
        self.report(false).await;
    }

    /// As its agent does: whenever it is registered.
    async fn report(&self, passes: bool) {
        let Instance { node, app, .. } = &self.instance;
        if let Some(found) = self.store.registered(node).await.unwrap().get(app)
            && found.wants_report(passes, "", SystemTime::now())
        {
            self.store.report(node, app, passes, "").await.unwrap();
        }
    }

    /// Its agent ends.
    pub(crate) fn die(&mut self) {
        self.agent = None;
    }

    pub(crate) async fn all(&self) -> Vec<Registered> {
        self.store.instances(&self.instance.app, &self.instance.cluster).await.unwrap()
    }

    /// The only instance there is.
    pub(crate) async fn only(&self) -> Registered {
        let [found] = <[Registered; 1]>::try_from(self.all().await).unwrap();
        found
    }

    /// The instance, once it is so.
    pub(crate) async fn until(&self, is_so: impl Fn(&Registered) -> bool) -> Registered {
        let follow = async {
            loop {
                let all = self.all().await;
                if let Some(found) = all.iter().find(|it| it.node == self.instance.node && is_so(it)) {
                    return found.clone();
                }
                self.store.wait_instances(&self.instance.app, &self.instance.cluster, &all).await.unwrap();
            }
        };
        soon(follow).await
    }

    /// An operator sets maintenance by hand.
    pub(crate) fn maintain(&self, notes: &str) {
        self.maintain_another(&self.instance.node, notes);
    }

    pub(crate) fn maintain_another(&self, node: &NodeName, notes: &str) {
        let Instance { app, cluster, .. } = &self.instance;
        match &self.place.consul {
            Some(consul) => {
                let notes = notes.replace(' ', "%20");
                let path = format!("/v1/agent/service/maintenance/{node}:{app}?enable=true&reason={notes}");
                assert_eq!(consul.http("PUT", &path, b"").0, 200);
            }
            None => {
                let path = self.place.root().join(format!("instances/{app}/{cluster}/{node}.json"));
                let mut document = serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()).unwrap();
                document["maintenance"] = notes.into();
                std::fs::write(path, document.to_string()).unwrap();
            }
        }
    }

    /// What a registration leaves a mark on, even if it is the same.
    pub(crate) fn trace(&self) -> String {
        let Instance { app, cluster, node, .. } = &self.instance;
        match &self.place.consul {
            Some(consul) => consul.http("GET", &format!("/v1/catalog/service/{app}"), b"").1,
            None => {
                let path = self.place.root().join(format!("instances/{app}/{cluster}/{node}.json"));
                format!("{:?}", std::fs::metadata(path).unwrap().modified().unwrap())
            }
        }
    }
}

/// One whose agent reports how it is, on either store.
pub(crate) async fn reported<'a>(place: &'a Place, node: &str) -> App<'a> {
    let mut app = App::new(place, node).await;
    app.instance.check = InstanceCheck::Reported;
    app.instance.port = None;
    app
}
