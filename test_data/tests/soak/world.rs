//! What operators and developers want meanwhile: three apps, two by the store and one by `pt-direct`, and all that they
//! may change about them.

use std::fmt;
use std::fs;

use fixtures::{Behaviour, Host, SOON, Slug, eventually, free_port, http_get};
use serde_json::{Value, json};

pub(crate) struct World {
    pub(crate) apps: Vec<App>,
    pub(crate) changes: usize,
}

pub(crate) struct App {
    pub(crate) name: &'static str,
    port: u16,
    /// By `pt-direct`'s file, not by the store.
    in_file: bool,
    /// By their number, from 1.
    versions: Vec<Behaviour>,
    pub(crate) active: Option<usize>,
    pub(crate) prep: Option<usize>,
    greeting: u32,
    open: Vec<Value>,
    hold: bool,
    /// Whether this node is to run it.
    pub(crate) is_here: bool,
    /// Whether its node key is there to be deleted.
    was_here: bool,
}

impl World {
    pub(crate) fn new(host: &Host) -> Self {
        let app = |(name, in_file)| App {
            name,
            port: free_port(),
            in_file,
            versions: Vec::new(),
            active: None,
            prep: None,
            greeting: 0,
            open: Vec::new(),
            hold: false,
            is_here: true,
            was_here: false,
        };
        let apps = [("one", false), ("two", false), ("direct", true)].map(app).into();
        let mut world = Self { apps, changes: 0 };
        for app in &mut world.apps {
            app.release(host, Behaviour::Good);
            app.active = Some(1);
        }
        world.write(host);
        world
    }

    pub(crate) fn change(&mut self, random: &mut fastrand::Rng, host: &Host) {
        self.changes += 1;
        let index = random.usize(0..self.apps.len());
        let app = &mut self.apps[index];
        match random.u8(0..12) {
            0..4 => {
                let behaviours = [Behaviour::Good, Behaviour::Good, Behaviour::Good, Behaviour::NeverHealthy];
                app.release(host, behaviours[random.usize(0..behaviours.len())]);
                app.active = Some(app.versions.len());
            }
            4 => app.active = Some(random.usize(1..=app.versions.len())),
            5 => app.active = None,
            6 => app.prep = Some(random.usize(1..=app.versions.len())),
            7 => app.greeting += 1,
            8..10 => app.open = (0..random.usize(0..4)).map(|_| port(random)).collect(),
            10 => app.hold = !app.hold,
            _ => app.is_here = !app.is_here,
        }
        self.write(host);
    }

    /// What is wanted in the end can be had: no hold, and a good version; and it is not nothing.
    pub(crate) fn settle(&mut self, host: &Host) {
        self.apps[0].is_here = true;
        self.apps[0].active.get_or_insert(1);
        for app in &mut self.apps {
            app.hold = false;
            if let Some(active) = app.active
                && !matches!(app.versions[active - 1], Behaviour::Good)
            {
                app.active =
                    app.versions.iter().rposition(|behaviour| matches!(behaviour, Behaviour::Good)).map(|n| n + 1);
            }
        }
        self.write(host);
    }

    /// Waits until every app answers that is to run, as it shall; no other does.
    pub(crate) fn serves(&self) {
        for app in &self.apps {
            match app.active.filter(|_| app.is_here) {
                Some(active) => eventually(&format!("{} {active} answers", app.name), SOON, || {
                    let health = serde_json::from_str::<Value>(&http_get(app.port, "/health")?.1).ok()?;
                    (health["version"].as_str() == Some(&active.to_string())
                        && health["user_config"]["greeting"] == app.greeting)
                        .then_some(())
                }),
                None => assert_eq!(http_get(app.port, "/health"), None, "{} is to be down", app.name),
            }
        }
    }

    fn write(&mut self, host: &Host) {
        let mut file = json!({});
        for app in &mut self.apps {
            for (key, document) in app.documents(host) {
                match (app.in_file, document) {
                    (true, Some(document)) => file[key] = document,
                    (true, None) => {}
                    (false, Some(document)) => host.put(&key, &document),
                    (false, None) if app.was_here => host.delete(&key),
                    (false, None) => {}
                }
            }
            app.was_here = app.is_here;
        }
        fs::write(host.path("next"), file.to_string()).unwrap();
        fs::rename(host.path("next"), host.path("intent.json")).unwrap();
    }
}

impl App {
    fn release(&mut self, host: &Host, behaviour: Behaviour) {
        self.versions.push(behaviour);
        host.repo.add_as(self.name, &Slug::new(&self.versions.len().to_string(), behaviour));
    }

    fn documents(&self, host: &Host) -> [(String, Option<Value>); 3] {
        let mut versions = json!({});
        for (version, status) in [(self.prep, "prep"), (self.active, "active")] {
            if let Some(version) = version {
                versions[version.to_string()] = json!(status);
            }
        }
        let config = json!({
            "versions": versions,
            "user_config": {"port": self.port, "greeting": self.greeting},
            "health": {"http": {"port": self.port, "path": "/health"}, "interval_seconds": 0.1, "deadline_seconds": 5},
            "stop_seconds": 1,
        });
        let deploy_config = json!({"basedir": host.path("srv").join(self.name), "ports": self.open});
        let node = json!({"cluster": "dev", "hold": self.hold});
        [
            (format!("clusters/{}/dev/config", self.name), Some(config)),
            (format!("clusters/{}/dev/deploy_config", self.name), Some(deploy_config)),
            (format!("nodes/web1/{}", self.name), self.is_here.then_some(node)),
        ]
    }
}

fn port(random: &mut fastrand::Rng) -> Value {
    let port = random.u16(1..20);
    match random.u8(0..4) {
        0 => json!(port),
        1 => json!({"port": port, "protocol": "udp"}),
        2 => json!({"port": port, "source": "10.0.0.0/8"}),
        _ => json!({"port": port, "protocol": "udp", "source": "fd00::/8"}),
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let app = |app: &App| match (app.is_here, app.active) {
            (false, _) => format!("{} gone", app.name),
            (true, None) => format!("{} stopped", app.name),
            (true, Some(active)) => format!("{} at {active} of {}", app.name, app.versions.len()),
        };
        f.write_str(&self.apps.iter().map(app).collect::<Vec<_>>().join(", "))
    }
}
