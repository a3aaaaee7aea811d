//! The BPF object of `bench-ebpf`: built, loaded, attached, and its maps.

use anyhow::{Context, Result, anyhow};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::programs::links::Link as _;
use aya::programs::tc::SchedClassifierLink;
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{Program, SchedClassifier, TcAttachType, Xdp};
use aya::util::nr_cpus;
use bench_ebpf::{Expected, Expected6, Joined, Progress, Received, Traffic, Traffic6};
use bpf_toolchain::{ObjectBuild, Toolchain};
use bytemuck::Pod;
use lab::Host;

use crate::command::workspace;

/// The loaded programs. One measurement at a time uses them.
pub(crate) struct Programs {
    ebpf: Ebpf,
}

/// A program at a hook; it leaves it when this is dropped.
pub(crate) enum Attached {
    /// Held for its end.
    Xdp(Option<XdpLink>),
    /// Held for its end.
    Tc(Option<SchedClassifierLink>),
}

impl Drop for Attached {
    fn drop(&mut self) {
        let detached = match self {
            Self::Xdp(link) => link.take().map(XdpLink::detach),
            Self::Tc(link) => link.take().map(SchedClassifierLink::detach),
        };
        if let Some(Err(error)) = detached {
            eprintln!("detach a measuring program: {error}");
        }
    }
}

impl Programs {
    /// Builds the object and loads everything that is in it.
    ///
    /// # Errors
    /// When it does not compile or the kernel refuses it.
    pub(crate) fn load() -> Result<Self> {
        let workspace = workspace()?;
        let toolchain = Toolchain::find(&workspace)?;
        let build = ObjectBuild {
            workspace: &workspace,
            package: "bench-ebpf",
            program: "bench-ebpf",
            toolchain: &toolchain,
            target_dir: workspace.bpf_target(),
        };
        let object = build.build()?;
        let mut ebpf =
            Ebpf::load_file(&object).with_context(|| format!("load {}", object.display()))?;
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                other => anyhow::bail!("{name} is a {:?}", other.prog_type()),
            }
            .with_context(|| format!("load {name}"))?;
        }
        Ok(Self { ebpf })
    }

    /// A program that makes packets.
    ///
    /// # Errors
    /// When the object has none of this name.
    pub(crate) fn generator(&self, name: &str) -> Result<&Xdp> {
        let program = self.ebpf.program(name).context("no such generator")?;
        program.try_into().context("it is not for XDP")
    }

    /// Attaches an XDP program to a host's interface, by its driver.
    ///
    /// # Errors
    /// When the interface has another one already.
    pub(crate) fn attach_xdp(
        &mut self,
        name: &str,
        host: &Host,
        interface: &str,
    ) -> Result<Attached> {
        let program = self.ebpf.program_mut(name).context("no such program")?;
        let program: &mut Xdp = program.try_into()?;
        let link = host.enter(|| {
            let link = program.attach(interface, XdpMode::Driver)?;
            program.take_link(link)
        })?;
        let link =
            link.with_context(|| format!("attach {name} to {interface} of {}", host.name()))?;
        Ok(Attached::Xdp(Some(link)))
    }

    /// Attaches a TC program to a host's interface, at ingress.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn attach_tc(
        &mut self,
        name: &str,
        host: &Host,
        interface: &str,
    ) -> Result<Attached> {
        let program = self.ebpf.program_mut(name).context("no such program")?;
        let program: &mut SchedClassifier = program.try_into()?;
        let link = host.enter(|| {
            let link = program.attach(interface, TcAttachType::Ingress)?;
            program.take_link(link)
        })?;
        let link =
            link.with_context(|| format!("attach {name} to {interface} of {}", host.name()))?;
        Ok(Attached::Tc(Some(link)))
    }

    /// Says which interfaces the bare redirects join, by their indices.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn join(&mut self, joined: Joined) -> Result<()> {
        self.write("JOINED", joined)
    }

    /// Prepares the next packets to send, their first flow and the expected arrivals; nothing has
    /// arrived yet.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub(crate) fn prepare(
        &mut self,
        traffic: Traffic,
        begin: Progress,
        expected: Expected,
    ) -> Result<()> {
        self.write("TRAFFIC", traffic)?;
        self.write("EXPECTED", expected)?;
        self.write_per_cpu("PROGRESS", begin)?;
        self.write_per_cpu("RECEIVED", Received::default())
    }

    /// The same for IPv6.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub(crate) fn prepare6(&mut self, traffic: Traffic6, expected: Expected6) -> Result<()> {
        self.write("TRAFFIC6", traffic)?;
        self.write("EXPECTED6", expected)?;
        self.write_per_cpu("PROGRESS", Progress::default())?;
        self.write_per_cpu("RECEIVED", Received::default())
    }

    /// Packets made since [`Programs::prepare`].
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn made(&self) -> Result<u64> {
        let all = self.per_cpu::<Progress>("PROGRESS")?;
        Ok(all.iter().map(|progress| progress.0.made).sum())
    }

    /// What has arrived since [`Programs::prepare`].
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn received(&self) -> Result<Received> {
        let mut sum = Received::default();
        for Plain(one) in self.per_cpu::<Received>("RECEIVED")?.iter() {
            sum.right += one.right;
            if one.wrong > 0 {
                sum.wrong += one.wrong;
                sum.last_wrong = one.last_wrong;
            }
        }
        Ok(sum)
    }

    fn write<T: Pod>(&mut self, name: &str, value: T) -> Result<()> {
        let map = self.ebpf.map_mut(name).context("no such map")?;
        let mut map: Array<&mut MapData, Plain<T>> = map.try_into()?;
        map.set(0, Plain(value), 0)
            .with_context(|| format!("write map {name}"))
    }

    fn write_per_cpu<T: Pod>(&mut self, name: &str, value: T) -> Result<()> {
        let map = self.ebpf.map_mut(name).context("no such map")?;
        let mut map: PerCpuArray<&mut MapData, Plain<T>> = map.try_into()?;
        let cpus = nr_cpus().map_err(|(path, error)| anyhow!("read {path}: {error}"))?;
        let values = PerCpuValues::try_from(vec![Plain(value); cpus])?;
        map.set(0, values, 0)
            .with_context(|| format!("write map {name}"))
    }

    fn per_cpu<T: Pod>(&self, name: &str) -> Result<PerCpuValues<Plain<T>>> {
        let map = self.ebpf.map(name).context("no such map")?;
        let map: PerCpuArray<&MapData, Plain<T>> = map.try_into()?;
        map.get(&0, 0).with_context(|| format!("read map {name}"))
    }
}

/// A map's value, marked for aya.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: the same bytes as `T`, for which bytemuck guarantees what aya requires: every bit pattern
// is valid and nothing in it is a pointer or left uninitialised.
unsafe impl<T: Pod> aya::Pod for Plain<T> {}
