// Whether a domain runs under a definition, as far as virt-reclaim is concerned. Pure. (Whether
// libvirt stored a definition is another question, and a stricter one: xml-tools/stored.h.)
#ifndef VIRT_RECLAIM_HOST_MODEL_SAME_DEFINITION_H_
#define VIRT_RECLAIM_HOST_MODEL_SAME_DEFINITION_H_

#include "xml-tools/domain.h"

namespace virt_reclaim {

// What of a domain a migration may change reads the same in both: disks, machine type, controllers
// and channels. libvirt adds elements of its own to what it is given, and a medium may be changed
// at any time; those do not matter.
bool SameWhereItMatters(const xml::Domain& wanted, const xml::Domain& found);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_SAME_DEFINITION_H_
