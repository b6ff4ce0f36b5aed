//! `pp-store plan` and `import --if-plan`: what an import would do to which hosts, and an import that does just that or nothing.

#[macro_use]
mod place;

use std::fs;
use std::path::PathBuf;

use fixtures::{free_port, tree};
use place::Place;
use place::command::{fails, json as shown, ok, pp_store, run, said};
use serde_json::{Value, json};
use store::{Instance, InstanceCheck};

const CONFIG: &str = "clusters/slug/dev/config";
const DEPLOY: &str = "clusters/slug/dev/deploy_config";

on_both_stores! {
    an_import_does_what_was_planned_or_nothing
}

/// Three hosts that run version 1 of slug, of which web1 has 2 as well; and the same as a directory in which 2 is active.
struct Site<'a> {
    place: &'a Place,
    dir: PathBuf,
}

impl<'a> Site<'a> {
    fn new(place: &'a Place) -> Self {
        let site = Self { place, dir: place.scratch.path().join("dir") };
        place.write(CONFIG, br#"{"versions": {"1": "active"}, "min_nodes": 1}"#);
        place.write(DEPLOY, br#"{"basedir": "/srv/slug"}"#);
        for node in ["web1", "web2", "web3"] {
            place.write(&format!("nodes/{node}/slug"), br#"{"cluster": "dev"}"#);
            site.says(node, "pp-preparer", if node == "web1" { &["1", "2"] } else { &["1"] });
            site.says(node, "pp-setlive", &["1"]);
        }
        assert_eq!(run(place, &["export", site.dir()]).0, 0);
        site.write(CONFIG, r#"{"versions": {"1": "prep", "2": "active"}, "min_nodes": 1}"#);
        site
    }

    fn dir(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    fn write(&self, key: &str, text: &str) {
        let path = self.dir.join(format!("{key}.json"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn says(&self, node: &str, agent: &str, there: &[&str]) {
        let slug = json!({"cluster": "dev", "state": "converged", "since": "2026-11-22T03:14:08Z", "wanted": ["1"], "there": there});
        let report = json!({"version": "0.1.0", "apps": {"slug": slug}});
        self.place.write(&format!("reality/{node}/{agent}"), report.to_string().as_bytes());
    }

    /// A plan, and its token.
    #[track_caller]
    fn plan(&self) -> (String, String) {
        let (status, out, err) = run(self.place, &["plan", self.dir()]);
        assert_eq!(status, 2, "{out}{err}");
        let token = out.lines().last().unwrap().strip_prefix("token: ").unwrap().to_owned();
        assert!(err.contains(&format!("pp-store import {} --if-plan {token}", self.dir())), "{err}");
        (out, token)
    }

    /// That an import with this token is refused, and writes nothing.
    #[track_caller]
    fn is_refused(&self, token: &str, says: &str) {
        let before = self.everything();
        let again = "run `pp-store plan` again, with the same DIR and options";
        let says = format!("nothing was imported: the plan is another one now: {says}");
        fails(self.place, &["import", self.dir(), "--if-plan", token], 1, &[&says, again]);
        assert_eq!(self.everything(), before);
    }

    /// All documents of the store.
    fn everything(&self) -> Value {
        shown(self.place, &["ls"])
    }
}

fn an_import_does_what_was_planned_or_nothing(place: &Place) {
    let site = Site::new(place);
    let before = site.everything();
    let (out, token) = site.plan();
    for says in [
        "slug dev\n  clusters/slug/dev/config: version 1 -> 2\n  web1: 2 is prepared; replace 1 by 2, one first, then at most 2 at a time",
        "\n  web2 web3: fetch and prepare 2; replace 1 by 2, ",
    ] {
        assert!(out.contains(says), "{out}\ndoes not say {says}");
    }
    let in_json = shown(place, &["plan", site.dir()]);
    assert_eq!(in_json["token"], token, "it stays the same");
    let change = json!([{"key": CONFIG, "change": "change", "how": ["version 1 -> 2"]}]);
    assert_eq!((&in_json["changes"], &in_json["identical"], &in_json["findings"]), (&change, &json!(4), &json!([])));
    let does = json!([{"do": "prepare", "versions": ["2"]}, {"do": "replace", "from": "1", "to": "2"}]);
    let cluster = &in_json["clusters"][0];
    assert_eq!((&cluster["hosts"][2]["node"], &cluster["hosts"][2]["does"]), (&json!("web3"), &does));
    assert_eq!((&cluster["at_once"], &cluster["hosts"][2]["unless"][0]["state"]), (&json!(2), &json!("unknown")));
    assert_eq!(site.everything(), before);

    let joins = "the same would be written, and hosts would do other things with it";
    let others = "other documents would be written, or over others";
    place.write("nodes/web4/slug", br#"{"cluster": "dev"}"#);
    site.is_refused(&token, joins);
    ok_out(place, &["rm", "nodes/web4/slug"]);
    site.says("web2", "pp-setlive", &["0"]);
    site.is_refused(&token, joins);
    site.says("web2", "pp-setlive", &["1"]);
    place.write(CONFIG, br#"{"versions": {"0": "active"}, "min_nodes": 1}"#);
    site.is_refused(&token, others);
    place.write(CONFIG, br#"{"versions": {"1": "active"}, "min_nodes": 1, "user_config": {}}"#);
    site.is_refused(&token, others);
    place.write(CONFIG, br#"{"versions": {"1": "active"}, "min_nodes": 1}"#);
    let planned = fs::read_to_string(site.dir.join(format!("{CONFIG}.json"))).unwrap();
    site.write(CONFIG, &planned.replace(r#""2""#, r#""3""#));
    site.is_refused(&token, others);
    site.write(CONFIG, &planned);
    site.is_refused("cafe", others);

    // As it was when it was planned.
    assert_eq!(site.plan().1, token);
    assert_eq!(ok_out(place, &["import", site.dir(), "--if-plan", &token]), format!("changed {CONFIG}\n"));
    assert_eq!(ok(place, &["get", CONFIG]), planned);
    site.is_refused(&token, "nothing is left to do");
    let (status, out, err) = run(place, &["plan", site.dir()]);
    assert_eq!((status, out.as_str()), (0, ""));
    assert!(err.contains("nothing would change: 5 documents are right already"), "{err}");

    // What goes is planned, too; and with other options it is another plan.
    fs::remove_file(site.dir.join("nodes/web3/slug.json")).unwrap();
    let (status, out, err) = run(place, &["plan", site.dir(), "--prune"]);
    assert!(
        status == 2 && out.contains("\n  web3: stop 1 and remove its services, as min_nodes lets it"),
        "{out}{err}"
    );
    let token = out.lines().last().unwrap().strip_prefix("token: ").unwrap();
    site.is_refused(token, "nothing is left to do");
    let pruned = ok_out(place, &["import", site.dir(), "--prune", "--if-plan", token]);
    assert_eq!(pruned, "removed nodes/web3/slug\n");
}

#[tokio::test]
async fn a_plan_is_as_the_readme_shows_it() {
    let place = Place::directory();
    let site = Site::new(&place);
    let (store, mut alive) = (place.store(), Vec::new());
    for node in ["web1", "web2", "web3"] {
        for agent in ["pp-preparer", "pp-setlive"] {
            alive.push(store.stay_alive(&node.parse().unwrap(), agent).await.unwrap());
        }
        let instance = Instance {
            app: "slug".parse().unwrap(),
            cluster: "dev".parse().unwrap(),
            node: node.parse().unwrap(),
            version: "1".parse().unwrap(),
            digest: "d1".to_owned(),
            port: None,
            check: InstanceCheck::Reported,
        };
        store.register(&instance).await.unwrap();
        store.report(&instance.node, &instance.app, true, "").await.unwrap();
    }
    drop(alive.pop());
    let (_, token) = site.plan();
    let mut plan = pp_store(&place.url);
    let output = plan.args(["plan", "dir"]).current_dir(place.scratch.path()).output().unwrap();
    let (status, out, err) = said(&output);
    let (lines, last) = out.split_at(out.find("token: ").unwrap());
    let shown = format!("$ pp-store plan intent\n{lines}{}{last}```", err.replace(" dir ", " intent "));
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    assert!(status == 2 && last == format!("token: {token}\n") && readme.contains(&shown), "{shown}");
}

/// What it prints, whatever else it says.
#[track_caller]
fn ok_out(place: &Place, arguments: &[&str]) -> String {
    let (status, out, err) = run(place, arguments);
    assert_eq!(status, 0, "{arguments:?}:\n{out}{err}");
    out
}

#[test]
fn what_would_be_invalid_has_no_token_and_files_that_import_refuses_no_plan() {
    let place = Place::directory();
    let site = Site::new(&place);
    site.write("clusters/tool/dev/config", r#"{"versions": {}}"#);
    site.write("clusters/tool/dev/deploy_config", r#"{"basedir": "/srv/slug/tool"}"#);
    site.write("nodes/web1/tool", r#"{"cluster": "dev"}"#);
    let (status, out, err) = run(&place, &["plan", site.dir()]);
    assert!(status == 1 && !out.contains("\ntoken: "), "{out}{err}");
    assert!(out.contains("\n  web1: is left as it is\n    web1: invalid: clusters/"), "{out}");
    for says in ["from then on: ", "is inside that of", "there is no token for this: it would be invalid"] {
        assert!(err.contains(says), "{err}\ndoes not say {says}");
    }
    assert_eq!(shown(&place, &["plan", site.dir()])["token"], Value::Null);

    site.write("nodes/web1/tool", "{\n  \"cluster\": ");
    site.write("nodes/web1/two words", "{}");
    site.write("node/web4/slug", r#"{"cluster": "dev"}"#);
    let before = tree(&site.dir);
    let (planned, out, plan) = run(&place, &["plan", site.dir()]);
    let (imported, _, import) = run(&place, &["import", site.dir()]);
    assert_eq!((planned, imported, out.as_str()), (1, 1, ""));
    assert_eq!(plan, import.replace("nothing was imported", "there is no plan"));
    assert!(plan.contains(&format!("nodes/web1/tool: {}/nodes/web1/tool.json:2:13: invalid", site.dir())), "{plan}");
    assert_eq!(tree(&site.dir), before);
    for wrong in ["--force", "--dry-run"] {
        assert_eq!(run(&place, &["import", site.dir(), "--if-plan", "cafe", wrong]).0, 2, "{wrong}");
    }
}

#[test]
fn of_what_cannot_be_read_there_is_no_plan_and_no_import_by_one() {
    let place = Place::directory();
    let site = Site::new(&place);
    let (_, token) = site.plan();
    // A report that makes no sense is not the same as none.
    place.write("reality/web3/pp-setlive", b"{");
    let says = "what web3 would do cannot be known: reality/web3/pp-setlive: this is no report of an agent: ";
    fails(&place, &["plan", site.dir()], 1, &["there is no plan: ", says]);
    fails(&place, &["import", site.dir(), "--if-plan", &token], 1, &["nothing was imported: ", says]);

    let nobody = format!("consul://127.0.0.1:{}", free_port());
    for arguments in [&["plan", site.dir()][..], &["import", site.dir(), "--if-plan", &token]] {
        let (status, out, err) = said(&pp_store(&nobody).args(arguments).output().unwrap());
        assert_eq!((status, out.as_str(), err.lines().count()), (1, "", 1), "{err}");
        assert!(err.contains("cannot connect"), "{err}");
    }
}

#[test]
fn a_token_that_may_not_read_reports_gets_no_plan_and_the_rule_is_named() {
    let place = Place::consul_with_access_control();
    let dir = place.scratch.path().join("dir");
    fs::create_dir_all(dir.join("nodes/web1")).unwrap();
    fs::write(dir.join("nodes/web1/slug.json"), r#"{"cluster": "dev"}"#).unwrap();
    let token = place.token(
        r#"key_prefix "nodes/" { policy = "write" } key_prefix "clusters/" { policy = "read" } key_prefix "history/" { policy = "write" }"#,
    );
    for command in [&["plan"][..], &["import", "--if-plan", "cafe"]] {
        let mut command = [command, &[dir.to_str().unwrap()]].concat();
        command.push("--json");
        let output = pp_store(&place.url).env("CONSUL_HTTP_TOKEN", &token).args(command).output().unwrap();
        let (status, out, err) = said(&output);
        assert_eq!((status, out.as_str()), (1, ""), "{err}");
        assert!(err.contains("what nodes have prepared cannot be known without key_prefix \"reality/\""), "{err}");
    }
}
