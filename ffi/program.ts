/** Programs that the native library has taken. */
import type { Program } from "../ir/program.ts";
import { check, NativeError, text } from "./errors.ts";
import { native } from "./library.ts";
import { STATUS } from "./symbols.ts";

/** A program that the native library has decoded and checked. It fits every device of the process. */
export class LoadedProgram implements Disposable {
  private constructor(readonly id: number, readonly program: Program) {}

  /** @throws NativeError that names the operation and what is wrong with it. */
  static load(program: Program): LoadedProgram {
    const error = new Uint8Array(512), id = new Uint32Array(1);
    const status = native().baton_program_load(
      program.bytes,
      BigInt(program.bytes.length),
      id,
      error,
      error.length,
    );
    if (status === STATUS.BAD_PROGRAM) {
      throw new NativeError(`Cannot load ${program.name}: ${text(error)}`, status);
    }
    check(status, `load ${program.name}`);
    return new LoadedProgram(id[0]!, program);
  }

  [Symbol.dispose](): void {
    check(native().baton_program_unload(this.id), `unload ${this.program.name}`);
  }
  dispose(): void {
    this[Symbol.dispose]();
  }
}
