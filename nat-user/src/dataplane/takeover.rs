//! What a starting data plane finds in its directory, and how one replaces another there.
//!
//! A data plane is in the directory `v` followed by the version of its layout. Its replacement is
//! created in `v…-next`, filled, marked by a directory `switching`, and receives the links one by
//! one. When all links run its programs, both names are exchanged in one step, and the former one
//! is removed. If the daemon ends in between, the next one sees from the names how far it came.

use std::{fs, io};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapInfo;
use nat_common::drop_reason::DROP_REASONS;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{
    Pins, Sizes,
    layout::{CURRENT, Layout},
    pins::{data_planes, remove_directory, version_of},
};

/// A data plane whose sessions must migrate to another.
pub(super) struct Former {
    pub(super) pins: Pins,
    pub(super) layout: &'static Layout,
}

/// What is there.
pub(super) enum Found {
    /// No data plane.
    Nothing,
    /// One with these sizes and this layout.
    Fitting,
    /// One that needs other tables.
    Other(Former),
    /// One that has received the links of another, whose tables have not been taken over
    /// completely.
    Unfinished(Former),
}

/// Checks that the pinned data plane can be taken over. Changes nothing.
///
/// # Errors
///
/// When its layout is unknown, or it is not natbpf's.
pub(super) fn check_layouts(pins: &Pins) -> Result<()> {
    for name in data_planes(pins.bpffs())? {
        let version = version_of(&name).unwrap_or_default();
        if Layout::of_version(version).is_none() {
            bail!(
                "{} holds a data plane of layout {version}; this natbpf knows {}. It keeps \
                 translating: use the natbpf that made it, or remove it with natbpf down, which \
                 ends all its sessions",
                pins.bpffs().join(&name).display(),
                Layout::known(),
            );
        }
    }
    match (pins.exist(), older(pins)) {
        (true, _) if was_interrupted(pins) => Ok(()),
        (true, _) => CURRENT.check(pins),
        (false, Some(former)) => former.layout.check(&former.pins),
        (false, None) => Ok(()),
    }
}

/// Looks for a data plane, and completes what an earlier daemon has begun.
///
/// # Errors
///
/// As for [`check_layouts`].
pub(super) fn find(pins: &Pins, sizes: &Sizes) -> Result<Found> {
    check_layouts(pins)?;
    if let Some(former) = recover(pins)? {
        return Ok(Found::Unfinished(former));
    }
    if was_interrupted(pins) {
        pins.remove_own()?;
    }
    if !pins.exist() {
        return Ok(older(pins).map_or(Found::Nothing, Found::Other));
    }
    let former = Former::of(pins.clone());
    Ok(match former.fits(sizes)? {
        true => Found::Fitting,
        false => Found::Other(former),
    })
}

/// Whether a daemon that died was making the maps: some are missing, and no program was attached
/// yet.
fn was_interrupted(pins: &Pins) -> bool {
    let has_links = fs::read_dir(pins.links()).is_ok_and(|mut links| links.next().is_some());
    !has_links && CURRENT.is_part_of(pins)
}

/// The data plane of an older layout.
fn older(pins: &Pins) -> Option<Former> {
    let versions = (1..CURRENT.version).rev();
    versions.filter_map(Layout::of_version).find_map(|layout| {
        let pins = pins.of_layout(layout.version);
        pins.exist().then_some(Former { pins, layout })
    })
}

/// Completes what a dead daemon has begun. Returns the former data plane if another has its links.
fn recover(pins: &Pins) -> Result<Option<Former>> {
    let next = pins.beside();
    if !next.directory().exists() {
        remove_directory(&pins.marker())?;
        return Ok(None);
    }
    if !next.marker().exists() {
        // It was being filled, or the other one has replaced it.
        next.remove_own()?;
        remove_directory(&pins.marker())?;
        return Ok(None);
    }
    let former = match pins.exist() {
        true => Some(Former::of(pins.clone())),
        false => older(pins),
    };
    let Some(former) = former else {
        rename(&next, pins, RenameFlags::empty())?;
        return Ok(None);
    };
    hand_links_over(&former.pins, &next)?;
    Ok(Some(former.leave_to(pins)?))
}

/// Moves the links' pins; they still run the same programs.
pub(super) fn hand_links_over(from: &Pins, to: &Pins) -> Result<()> {
    let entries = match fs::read_dir(from.links()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("read the links' pins"),
    };
    for entry in entries {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        fs::rename(&path, to.links().join(name))
            .with_context(|| format!("move {}", path.display()))?;
    }
    Ok(())
}

fn rename(from: &Pins, to: &Pins, how: RenameFlags) -> Result<()> {
    let (from, to) = (from.directory(), to.directory());
    renameat2(AT_FDCWD, from, AT_FDCWD, to, how)
        .with_context(|| format!("move {} to {}", from.display(), to.display()))
}

impl Former {
    /// One of the current layout.
    pub(super) fn of(pins: Pins) -> Self {
        Self {
            pins,
            layout: &CURRENT,
        }
    }

    /// Whether it is of the current layout.
    pub(super) fn is_current(&self) -> bool {
        self.layout.version == CURRENT.version
    }

    fn fits(&self, sizes: &Sizes) -> Result<bool> {
        for name in self.layout.map_names(&self.pins) {
            if !self.has_room(name, sizes)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a map has the size that it should have.
    pub(super) fn has_room(&self, name: &str, sizes: &Sizes) -> Result<bool> {
        let path = self.pins.map(name);
        let info =
            MapInfo::from_pin(&path).with_context(|| format!("open map {}", path.display()))?;
        let max_entries = info.max_entries();
        Ok(match name {
            "DROPS" => max_entries == DROP_REASONS,
            // Rules that are gone keep their numbers.
            "COUNTERS" | "RULES" => max_entries >= sizes.rules,
            _ => sizes.of(name).is_none_or(|wanted| max_entries == wanted),
        })
    }

    /// Exchanges places with the one beside it in one step, and returns its new place.
    pub(super) fn leave_to(self, pins: &Pins) -> Result<Self> {
        let next = pins.beside();
        if !self.is_current() {
            rename(&next, pins, RenameFlags::empty())?;
            return Ok(self);
        }
        rename(&next, pins, RenameFlags::RENAME_EXCHANGE)?;
        Ok(Self { pins: next, ..self })
    }
}
