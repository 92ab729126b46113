// A recurrence over a whole sequence, forward and backward, whatever the cell.
//
// Threads share out the rows of the batch, which never see each other: each runs through the whole
// sequence alone, without a barrier. What a cell does with the sums of its gates is done as soon
// as a panel of them is there, while it lies in the first-level cache.
//
// A cell gives its number of gates and says, for one row and a vector of units:
//
//   forward(row, unit, count, from_inputs, from_hidden)   what to store; returns the hidden state
//   kept(row, unit, count)                                what of the hidden state's gradient goes
//                                                         on to the step before, past the gates
//   backward(step, row, unit, count, hidden, operands)    from the gradient of the hidden state
//                                                         those of the gates: what to store, and
//                                                         what is multiplied with the weights
//   fetch_for(row, unit, count)                           which memory either will use
//
// `count` is the number of units, which is less than a vector at the end. In forward and fetch_for,
// rows are counted through all steps. A cell with GATES_APART gets what inputs and hidden state add
// to a gate each for itself, else their sum as `from_inputs`.
#pragma once

#include "backward.h"
#include "forward.h"
