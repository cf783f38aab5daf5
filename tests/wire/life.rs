//! How a gateway begins and ends, and what its links do without it.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use crate::host::{PATIENCE, SILENCE};
use crate::lab::{Lab, Plan, Side, ip, text, wait_for, wire_test};
use crate::policy;

const CLIENT: &str = "10.7.0.1";
const WEB: &str = "10.7.0.10";
const RULES: &str = r#"ingress = [
        { protocol = "tcp", ports = 80, from = ["10.7.0.0/24"] },
        { protocol = "icmp", from = ["10.7.0.0/24"] },
    ]
    egress = []"#;

/// Whether the link lets pass what the policy forbids.
fn is_open(lab: &Lab) -> bool {
    lab.inside().ping(CLIENT, PATIENCE.min(2.0))
}

fn is_closed(lab: &Lab) -> bool {
    !lab.outside().ping(WEB, SILENCE) && !lab.inside().ping(CLIENT, SILENCE)
}

#[test]
fn a_closed_link_stays_closed_however_the_gateway_ended() {
    wire_test(
        &Plan {
            policy: &policy(RULES),
            ..Plan::default()
        },
        |lab| {
            for signal in ["-TERM", "-KILL", "-ABRT", "-INT"] {
                lab.reaches(Side::Outside, "ping", WEB, 0);
                let status = lab.end_gateway(signal);
                match signal {
                    "-TERM" | "-INT" => {
                        assert_eq!(status.code(), Some(0), "{signal}: {}", lab.log())
                    }
                    _ => assert!(status.signal().is_some(), "{signal}"),
                }
                assert!(is_closed(lab), "after {signal}");
                let gone = lab.portcullis(&["status"]);
                assert_eq!(gone.status.code(), Some(1), "nobody answers");
                assert_eq!(
                    text(&gone.stderr).lines().count(),
                    1,
                    "{}",
                    text(&gone.stderr)
                );
                // A restart takes over without any clean-up.
                lab.start_gateway();
                lab.reaches(Side::Outside, "ping", WEB, 0);
                lab.is_refused(Side::Inside, "ping", CLIENT, 0);
            }
        },
    );
}

#[test]
fn an_open_link_passes_everything_however_the_gateway_ended() {
    let link = "on_exit = \"open\"";
    let plan = Plan {
        policy: &policy(RULES),
        link,
        gro: true,
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        for signal in ["-TERM", "-KILL", "-ABRT"] {
            lab.is_refused(Side::Inside, "ping", CLIENT, 0);
            lab.end_gateway(signal);
            assert!(is_open(lab), "after {signal}");
            lab.start_gateway();
            lab.is_refused(Side::Inside, "ping", CLIENT, 0);
        }
    });
}

#[test]
fn a_bad_policy_at_start_ends_run_and_the_link_stays_closed() {
    wire_test(
        &Plan {
            policy: &policy(RULES),
            ..Plan::default()
        },
        |lab| {
            lab.end_gateway("-TERM");
            lab.write_policy("[security_groups.web]\ningres = []\n");
            let done = lab
                .command(&["run", "--config", "gateway.toml"])
                .output()
                .unwrap();
            assert_eq!(done.status.code(), Some(1));
            let said = text(&done.stderr);
            assert!(
                said.contains("ingres") && said.contains("policy.toml"),
                "{said}"
            );
            assert!(is_closed(lab));
        },
    );
}

#[test]
fn detach_takes_the_programs_off() {
    wire_test(
        &Plan {
            policy: &policy(RULES),
            ..Plan::default()
        },
        |lab| {
            let detach = |lab: &Lab, rest: &[&str]| {
                let arguments = [&["detach", "--config", "gateway.toml"], rest].concat();
                lab.command(&arguments).output().unwrap()
            };
            let attached = |lab: &Lab| {
                let namespace = lab.gateway_namespace();
                let links = text(&ip(&["-n", &namespace, "-d", "link"]).stdout);
                links.matches("prog/xdp").count()
            };
            assert_eq!(attached(lab), 2);
            let running = detach(lab, &["--all"]);
            assert_eq!(
                running.status.code(),
                Some(1),
                "a gateway runs: {}",
                text(&running.stdout)
            );
            assert_eq!(attached(lab), 2);
            lab.reaches(Side::Outside, "ping", WEB, 0);
            lab.end_gateway("-KILL");
            assert_eq!(attached(lab), 2);
            let unknown = detach(lab, &["nowhere"]);
            assert_eq!(unknown.status.code(), Some(1));
            assert!(
                text(&unknown.stderr).contains("link0"),
                "{}",
                text(&unknown.stderr)
            );
            let done = detach(lab, &["link0"]);
            assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
            assert_eq!(attached(lab), 0);
            let again = detach(lab, &["--all"]);
            assert_eq!(
                again.status.code(),
                Some(0),
                "nothing to do: {}",
                text(&again.stderr)
            );
            lab.start_gateway();
            lab.reaches(Side::Outside, "ping", WEB, 0);
        },
    );
}

#[test]
fn a_second_gateway_is_refused_in_one_line() {
    wire_test(
        &Plan {
            policy: &policy(RULES),
            ..Plan::default()
        },
        |lab| {
            let first = fs::read_to_string(lab.folder.join("gateway.toml")).unwrap();
            let folder = lab.folder.display().to_string();
            let other = first
                .replace(
                    &format!("{folder}/control.sock"),
                    &format!("{folder}/second.sock"),
                )
                .replace(
                    &format!("{folder}/state"),
                    &format!("{folder}/second-state"),
                );
            let shared_state = first.replace(
                &format!("{folder}/control.sock"),
                &format!("{folder}/third.sock"),
            );
            for (what, config) in [
                ("socket", &first),
                ("ports", &other),
                ("state", &shared_state),
            ] {
                fs::write(lab.folder.join("second.toml"), config).unwrap();
                let done = lab
                    .command(&["run", "--config", "second.toml"])
                    .output()
                    .unwrap();
                let said = text(&done.stderr);
                assert_eq!(done.status.code(), Some(1), "{what}: {said}");
                let lines: Vec<_> = said
                    .lines()
                    .filter(|line| line.starts_with("portcullis:"))
                    .collect();
                assert_eq!(lines.len(), 1, "{what}: {said}");
                if what != "socket" {
                    assert!(
                        said.contains("in0") || said.contains("out0"),
                        "{what}: {said}"
                    );
                }
                lab.reaches(Side::Outside, "ping", WEB, 0);
            }
            lab.inside().serve_tcp(WEB, 80);
            lab.reaches(Side::Outside, "tcp", WEB, 80);
        },
    );
}

#[test]
fn a_core_or_device_that_is_not_there_is_named() {
    wire_test(
        &Plan {
            policy: &policy(RULES),
            ..Plan::default()
        },
        |lab| {
            lab.end_gateway("-TERM");
            let config = fs::read_to_string(lab.folder.join("gateway.toml")).unwrap();
            for (from, to, parts) in [
                ("cores = [1]", "cores = [900]", ["900", "may use"]),
                ("\"in0\"", "\"in7\"", ["in7", "link0"]),
            ] {
                fs::write(lab.folder.join("second.toml"), config.replace(from, to)).unwrap();
                let done = lab
                    .command(&["run", "--config", "second.toml"])
                    .output()
                    .unwrap();
                assert_eq!(done.status.code(), Some(1));
                let said = text(&done.stderr);
                assert!(parts.iter().all(|part| said.contains(part)), "{said}");
            }
        },
    );
}

#[test]
fn an_address_or_another_program_on_a_port_is_refused() {
    wire_test(
        &Plan {
            policy: &policy(RULES),
            ..Plan::default()
        },
        |lab| {
            lab.end_gateway("-TERM");
            lab.command(&["detach", "--all", "--config", "gateway.toml"])
                .output()
                .unwrap();
            let namespace = lab.gateway_namespace();
            let refused = |lab: &Lab, part: &str| {
                let done = lab
                    .command(&["run", "--config", "gateway.toml"])
                    .output()
                    .unwrap();
                let said = text(&done.stderr);
                assert_eq!(done.status.code(), Some(1), "{said}");
                assert!(said.contains("in0") && said.contains(part), "{said}");
            };
            ip(&[
                "-n",
                &namespace,
                "addr",
                "add",
                "10.7.0.200/24",
                "dev",
                "in0",
            ]);
            refused(lab, "10.7.0.200");
            ip(&[
                "-n",
                &namespace,
                "addr",
                "del",
                "10.7.0.200/24",
                "dev",
                "in0",
            ]);
            ip(&["-n", &namespace, "link", "set", "in0", "mtu", "1400"]);
            refused(lab, "1400");
            ip(&["-n", &namespace, "link", "set", "in0", "mtu", "1500"]);
            lab.start_gateway();
            lab.reaches(Side::Outside, "ping", WEB, 0);
        },
    );
}

#[test]
fn the_service_manager_is_told_when_every_port_forwards() {
    wire_test(
        &Plan {
            policy: &policy(RULES),
            ..Plan::default()
        },
        |lab| {
            lab.end_gateway("-TERM");
            let path = lab.folder.join("notify.sock");
            let socket = UnixDatagram::bind(&path).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let mut child = lab
                .command(&["run", "--config", "gateway.toml"])
                .env("NOTIFY_SOCKET", &path)
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let hear = || {
                let mut buffer = [0; 256];
                let length = socket.recv(&mut buffer).unwrap();
                text(&buffer[..length])
            };
            assert!(hear().contains("READY=1"));
            assert!(
                lab.outside().ping(WEB, PATIENCE),
                "ready means that it forwards"
            );
            let pid = child.id().to_string();
            std::process::Command::new("kill")
                .args(["-TERM", &pid])
                .output()
                .unwrap();
            assert!(hear().contains("STOPPING=1"));
            assert_eq!(child.wait().unwrap().code(), Some(0));
        },
    );
}

#[test]
fn status_shows_the_links_and_their_mode() {
    wire_test(
        &Plan {
            policy: &policy(RULES),
            link: "xdp_mode = \"generic\"",
            ..Plan::default()
        },
        |lab| {
            lab.inside().serve_tcp(WEB, 80);
            lab.reaches(Side::Outside, "tcp", WEB, 80);
            assert_eq!(lab.status()["links"][0]["mode"], "generic");
        },
    );
    wire_test(
        &Plan {
            policy: &policy(RULES),
            ..Plan::default()
        },
        |lab| {
            let status = lab.status();
            let link = &status["links"][0];
            assert_eq!(
                (&link["name"], &link["mode"]),
                (&"link0".into(), &"native".into())
            );
            assert_eq!(link["zero_copy"], false);
            assert_eq!(link["ports"][0]["device"], "in0");
            assert_eq!(link["ports"][1]["side"], "outside");
            assert_eq!(status["snapshot"]["interfaces"], 1);
            assert_eq!(status["conntrack"]["max_flows"], 1_000_000);
            let said = lab.portcullis(&["status"]);
            assert!(
                text(&said.stdout).contains("link link0: native"),
                "{}",
                text(&said.stdout)
            );
            wait_for(
                || fs::metadata(lab.folder.join("control.sock")).is_ok(),
                || "no socket".to_owned(),
            );
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(lab.folder.join("control.sock"))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        },
    );
}

#[test]
fn a_stopped_gateway_is_not_a_stuck_one() {
    let plan = Plan {
        policy: &policy(RULES),
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        lab.inside().serve_tcp(WEB, 80);
        lab.outside().open("a", "tcp", WEB, 80);
        lab.signal("-STOP");
        assert!(!lab.outside().ping(WEB, SILENCE));
        std::thread::sleep(Duration::from_millis(3500));
        lab.signal("-CONT");
        assert_eq!(lab.outside().say("a", 32, PATIENCE), "ok");
        std::thread::sleep(Duration::from_millis(1200));
        lab.reaches(Side::Outside, "ping", WEB, 0);
    });
}

#[test]
fn a_port_that_goes_down_and_comes_back_forwards_again() {
    let plan = Plan {
        policy: &policy(RULES),
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        lab.inside().serve_tcp(WEB, 80);
        lab.outside().open("a", "tcp", WEB, 80);
        for device in ["in0", "out0"] {
            let namespace = lab.gateway_namespace();
            ip(&["-n", &namespace, "link", "set", device, "down"]);
            assert!(!lab.outside().ping(WEB, SILENCE), "{device} is down");
            ip(&["-n", &namespace, "link", "set", device, "up"]);
            assert_eq!(lab.outside().say("a", 32, PATIENCE), "ok", "{device}");
        }
    });
}

#[test]
fn a_whole_link_carries_larger_frames() {
    let mtu = 3000;
    let plan = Plan {
        policy: &policy(RULES),
        frame_size: 4096,
        mtu,
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        let ping = |size: usize| {
            let size = (size - 28).to_string();
            let argv = [
                "ping", "-n", "-q", "-c", "1", "-W", "4", "-M", "do", "-s", &size, WEB,
            ];
            lab.outside().run(&argv).code == 0
        };
        assert!(ping(64));
        assert!(ping(mtu), "a frame of the whole MTU");
    });
}
