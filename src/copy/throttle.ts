/** Placeholder written by the lead: replaced by the copy engine's author. */
export class Throttle {
  percent = 100;
}
