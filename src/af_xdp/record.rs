//! What the gateway changed on a port, on disk, so that `detach` can put it back after any end of
//! any earlier run. Written before the change is made: undoing what was not done is harmless.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::device::Device;
use super::error::XdpError;

/// Version of the file's shape.
const VERSION: u32 = 1;
/// Most program ids that are remembered; only the latest can be in force.
const PROGRAM_IDS_MAX: usize = 8;

/// One thing that was changed on a device. What it was before follows from what it is: changes
/// are recorded only where something really had to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Change {
    /// IPv6 was on and went off.
    Ipv6Off,
    /// An offload feature was on and went off.
    FeatureOff(String),
    /// Promiscuous mode was off and went on.
    PromiscuousOn,
    /// The device was down and went up.
    Up,
}

impl Change {
    /// What undoing it amounts to, for people.
    pub(super) fn undone(&self) -> String {
        match self {
            Self::Ipv6Off => "IPv6 on".to_owned(),
            Self::FeatureOff(name) => format!("{name} on"),
            Self::PromiscuousOn => "promiscuous mode off".to_owned(),
            Self::Up => "device down".to_owned(),
        }
    }
}

/// The file's content.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    device: String,
    /// Index, namespace and boot together say whether it is still the same device.
    ifindex: u32,
    network_namespace: u64,
    boot_id: String,
    /// Programs that we attached, latest last.
    program_ids: Vec<u32>,
    changes: Vec<Change>,
}

/// The record of one port.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    content: Content,
}

impl Record {
    /// Reads the record of a device, or begins one: a record of another device of the same name
    /// (before a reboot, say) is of no use any more.
    pub(super) fn open(state_dir: &Path, device: &Device) -> Result<Self, XdpError> {
        let path = state_dir.join(format!("port-{}.json", device.name));
        let error = |source| XdpError::Record {
            path: path.clone(),
            source,
        };
        let fresh = Content {
            version: VERSION,
            device: device.name.clone(),
            ifindex: device.ifindex,
            network_namespace: fs::metadata("/proc/thread-self/ns/net")
                .map_err(error)?
                .ino(),
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .map_err(error)?
                .trim()
                .to_owned(),
            program_ids: Vec::new(),
            changes: Vec::new(),
        };
        let content = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Content>(&bytes) {
                Ok(found) if same_device(&found, &fresh) => found,
                Ok(_other) => fresh,
                Err(e) => return Err(error(io::Error::new(io::ErrorKind::InvalidData, e))),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => fresh,
            Err(e) => return Err(error(e)),
        };
        Ok(Self { path, content })
    }

    /// Adds changes that are about to be made, and writes the record.
    pub(super) fn add(&mut self, changes: &[Change]) -> Result<(), XdpError> {
        for change in changes {
            if !self.content.changes.contains(change) {
                self.content.changes.push(change.clone());
            }
        }
        self.save()
    }

    /// Adds the id of a program that is about to be attached, and writes the record.
    pub(super) fn add_program(&mut self, id: u32) -> Result<(), XdpError> {
        self.content.program_ids.push(id);
        let surplus = self
            .content
            .program_ids
            .len()
            .saturating_sub(PROGRAM_IDS_MAX);
        self.content.program_ids.drain(..surplus);
        self.save()
    }

    /// Whether we attached a program of this id. Ids are not reused before 2^31 programs.
    pub(super) fn knows_program(&self, id: u32) -> bool {
        self.content.program_ids.contains(&id)
    }

    /// All changes, in the order in which they were made.
    pub(super) fn changes(&self) -> &[Change] {
        &self.content.changes
    }

    /// Forgets everything: the device is as it was.
    pub(super) fn remove(&mut self) -> Result<(), XdpError> {
        self.content.changes.clear();
        self.content.program_ids.clear();
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.error(e)),
            _removed => Ok(()),
        }
    }

    /// Replaces the file in one step, so that a crash leaves the old one or the new one.
    fn save(&self) -> Result<(), XdpError> {
        let write = || -> io::Result<()> {
            if let Some(parent) = self.path.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(parent)?;
            }
            let temporary = self.path.with_extension("json.new");
            let mut file = File::create(&temporary)?;
            serde_json::to_writer_pretty(&mut file, &self.content)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(|e| self.error(e))
    }

    fn error(&self, source: io::Error) -> XdpError {
        XdpError::Record {
            path: self.path.clone(),
            source,
        }
    }
}

fn same_device(found: &Content, now: &Content) -> bool {
    found.version == now.version
        && found.ifindex == now.ifindex
        && found.network_namespace == now.network_namespace
        && found.boot_id == now.boot_id
}
