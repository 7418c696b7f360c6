/** What the owner of a device has said about its export. */

export interface ExportPolicy {
  /** Clients cannot write, whatever the device allows. */
  readonly readOnly: boolean;
  /** For people; null: the kinds of its targets. */
  readonly description: string | null;
  /** Not in LIST, nor the default export by being alone; whoever knows the name may have it. */
  readonly hidden: boolean;
  /** Addresses (CIDR) that may have it; empty: all. Unix sockets always may. */
  readonly allow: readonly string[];
  /** Connections at a time; null: as many as the daemon takes. */
  readonly connections: number | null;
}

export const openPolicy: ExportPolicy = {
  readOnly: false,
  description: null,
  hidden: false,
  allow: [],
  connections: null,
};
