//! A virtual machine with one processor, two pages of memory, and a guest of a few instructions.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use reveille::EventFd;

/// The guest's doorbell port, rung before everything else.
pub(crate) const DOORBELL: u8 = 0xe0;
/// The port that the guest writes to for each interrupt.
pub(crate) const ANSWER: u8 = 0xe1;
/// The port without an eventfd: writing to it exits to user space.
const END: u8 = 0xe2;

/// The interrupt line used for the interrupts; and the vector that the guest assigns to line 0.
const LINE: u8 = 5;
const FIRST_VECTOR: u8 = 0x20;

/// Address of the instructions in the guest's memory. The stack grows down from here.
const CODE: u16 = 0x1000;
const HANDLER: u16 = 0x1100;

#[repr(C, align(4096))]
struct Memory([u8; 0x2000]);

impl Memory {
    /// The initial memory of the guest, which starts in real mode with interrupts disabled.
    fn of_guest(rings: u16, interrupts: u16) -> Memory {
        let [rings_low, rings_high] = rings.to_le_bytes();
        let [interrupts_low, interrupts_high] = interrupts.to_le_bytes();
        #[rustfmt::skip]
        let code = [
            0xb0, 0x11,                           //       mov al, 0x11     ; to the interrupt controller:
            0xe6, 0x20,                           //       out 0x20, al     ;   three words will follow
            0xb0, FIRST_VECTOR,                   //       mov al, 0x20
            0xe6, 0x21,                           //       out 0x21, al     ;   line 0 is interrupt 0x20, and so on
            0xb0, 0x04,                           //       mov al, 4
            0xe6, 0x21,                           //       out 0x21, al     ;   the other controller is at line 2
            0xb0, 0x03,                           //       mov al, 3
            0xe6, 0x21,                           //       out 0x21, al     ;   automatic end of interrupt
            0xb0, !(1 << LINE),                   //       mov al, 0xdf
            0xe6, 0x21,                           //       out 0x21, al     ;   unmask only line 5
            0xb9, rings_low, rings_high,          //       mov cx, rings
            0xe6, DOORBELL,                       // ring: out 0xe0, al
            0xe2, 0xfc,                           //       loop ring
            0xb9, interrupts_low, interrupts_high, //      mov cx, interrupts
            0xfa,                                 // wait: cli              ; no interrupt between the test of cx and hlt
            0xe3, 0x04,                           //       jcxz done
            0xfb,                                 //       sti              ; takes effect after the next instruction
            0xf4,                                 //       hlt
            0xeb, 0xf9,                           //       jmp wait
            0xe6, END,                            // done: out 0xe2, al
        ];
        let handler = [
            0x49, //         dec cx
            0xe6, ANSWER, // out 0xe1, al
            0xcf,   //         iret
        ];
        let mut memory = Memory([0; 0x2000]);
        let mut put =
            |at: u16, bytes: &[u8]| memory.0[usize::from(at)..][..bytes.len()].copy_from_slice(bytes);
        put(CODE, &code);
        put(HANDLER, &handler);
        // In real mode the interrupt table starts at 0. Each entry is an offset and a segment; all
        // segments are 0 here.
        put(4 * u16::from(FIRST_VECTOR + LINE), &HANDLER.to_le_bytes());
        memory
    }
}

/// The machine. [Run](Machine::run) it on a thread of its own, which acts as its processor until
/// the guest ends.
pub(crate) struct Machine {
    vm: VmFd,
    processor: VcpuFd,
    exits: Arc<AtomicU64>,
}

impl Machine {
    /// Creates a machine whose guest rings the doorbell `rings` times, handles `interrupts`
    /// interrupts, and ends.
    pub(crate) fn new(kvm: &Kvm, rings: u16, interrupts: u16) -> io::Result<Machine> {
        let vm = kvm.create_vm()?;
        // Intel processors without unrestricted guest mode need three pages for real mode, at an
        // address where the guest has no memory.
        vm.set_tss_address(0xfffb_d000)?;
        // The in-kernel interrupt controllers: irqfds need them, and they let a halted guest sleep
        // in the kernel.
        vm.create_irq_chip()?;

        // Two leaked pages, so the machine cannot outlive its memory.
        let memory = Box::leak(Box::new(Memory::of_guest(rings, interrupts)));
        let region = kvm_userspace_memory_region {
            memory_size: size_of::<Memory>() as u64,
            userspace_addr: memory.0.as_mut_ptr() as u64,
            ..Default::default()
        };
        // SAFETY: the guest writes into these pages only. They are never freed, and from here on
        // nothing else in this program refers to them.
        #[allow(unsafe_code, reason = "the guest uses memory of this program")]
        unsafe {
            vm.set_user_memory_region(region)?;
        }

        let processor = vm.create_vcpu(0)?;
        let mut segments = processor.get_sregs()?;
        (segments.cs.base, segments.cs.selector) = (0, 0);
        processor.set_sregs(&segments)?;
        let mut registers = processor.get_regs()?;
        (registers.rip, registers.rsp) = (CODE.into(), CODE.into());
        processor.set_regs(&registers)?;
        Ok(Machine { vm, processor, exits: Arc::default() })
    }

    /// Makes the kernel add 1 to `bell` for each write to `port`, without an exit of the guest
    /// (KVM_IOEVENTFD).
    pub(crate) fn ring_on_write(&self, port: u8, bell: &EventFd) -> io::Result<()> {
        Ok(self.vm.register_ioevent(&duplicate(bell)?, &IoEventAddress::Pio(port.into()), NoDatamatch)?)
    }

    /// Makes the kernel interrupt the guest when `bell` is signalled (KVM_IRQFD). The kernel also
    /// consumes the counter.
    pub(crate) fn interrupt_on_ring(&self, bell: &EventFd) -> io::Result<()> {
        Ok(self.vm.register_irqfd(&duplicate(bell)?, LINE.into())?)
    }

    /// The number of exits to user space so far; updated while the guest runs.
    pub(crate) fn exits(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.exits)
    }

    /// Runs the guest on this thread until it ends.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            let exit = match self.processor.run().map_err(io::Error::from) {
                // A signal to this thread, unrelated to the guest.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            self.exits.fetch_add(1, Relaxed);
            match exit {
                VcpuExit::IoOut(port, _) if port == u16::from(END) => return Ok(()),
                other => {
                    return Err(io::Error::other(format!("unexpected exit of the guest: {other:?}")));
                }
            }
        }
    }
}

/// A duplicate descriptor of the eventfd, as the type that the calls take. The kernel holds a
/// reference to the counter, so the descriptor is only needed for the call.
fn duplicate<T: FromRawFd>(eventfd: &EventFd) -> io::Result<T> {
    let descriptor = OwnedFd::from(eventfd.try_clone()?).into_raw_fd();
    // SAFETY: the descriptor is open, and its only owner has just released it.
    #[allow(unsafe_code, reason = "neither type of eventfd converts to the other")]
    Ok(unsafe { T::from_raw_fd(descriptor) })
}
